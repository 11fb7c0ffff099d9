/**
 * Which controllers have one namespace. Base 2.1 sections 3.2.1.4 and 5.1.20: attachment is by controller; all controllers that a host gets by
 * the dynamic model start with the same namespaces (section 3.1.2.2), so what a host attached or detached is remembered by host, NQN and
 * identifier together, and holds for its next association whatever its CNTLID is then.
 */
import type { Controller } from './controller.ts';

/** Hosts remembered per namespace; beyond that the one that was changed first falls back to the default. */
const HOSTS_MAX = 4096;

export interface AttachmentsOptions {
  /** NQNs of the hosts for which the namespace exists at all; undefined: every host of the subsystem. */
  readonly hosts?: readonly string[] | undefined;
  /** Attached to hosts that said nothing: true for configured namespaces, false for those that hosts create. Default true. */
  readonly byDefault?: boolean | undefined;
}

export class Attachments {
  readonly byDefault: boolean;
  #hosts: ReadonlySet<string> | undefined;
  /** Where it differs from the default, oldest change first. */
  readonly #byHost = new Map<string, boolean>();
  /** Controllers of hosts that treat theirs differently. */
  readonly #byController = new WeakMap<Controller, boolean>();

  constructor(options: AttachmentsOptions = {}) {
    this.byDefault = options.byDefault ?? true;
    this.#hosts = options.hosts === undefined ? undefined : new Set(options.hosts);
  }

  /** The namespace exists for that host. */
  permits(hostnqn: string): boolean {
    return this.#hosts === undefined || this.#hosts.has(hostnqn);
  }

  /** Some host of the subsystem may be outside. */
  get isMasked(): boolean {
    return this.#hosts !== undefined;
  }

  has(controller: Controller): boolean {
    return (
      this.permits(controller.hostnqn) &&
      (this.#byController.get(controller) ?? this.#byHost.get(hostKey(controller)) ?? this.byDefault)
    );
  }

  /** @param all every controller of the subsystem @returns true if what is remembered of the host changed */
  set(controller: Controller, attached: boolean, all: Iterable<Controller>): boolean {
    const key = hostKey(controller);
    const siblings = [...all].filter((other) => hostKey(other) === key);
    for (const sibling of siblings) this.#byController.set(sibling, this.has(sibling));
    this.#byController.set(controller, attached);
    const before = this.#byHost.get(key) ?? this.byDefault;
    const after = attached || siblings.some((sibling) => this.has(sibling));
    this.#byHost.delete(key);
    if (after !== this.byDefault) this.#byHost.set(key, after);
    if (this.#byHost.size > HOSTS_MAX) this.#byHost.delete(this.#byHost.keys().next().value!);
    return before !== after;
  }

  setHosts(hosts: readonly string[] | undefined): void {
    this.#hosts = hosts === undefined ? undefined : new Set(hosts);
  }

  /** What to save: attached or not, by host, where it differs from the default. */
  remembered(): Record<string, boolean> {
    return Object.fromEntries(this.#byHost);
  }

  restore(byHost: Readonly<Record<string, boolean>>): void {
    for (const [key, attached] of Object.entries(byHost)) {
      if (attached !== this.byDefault) this.#byHost.set(key, attached);
    }
  }
}

function hostKey({ hostnqn, hostid }: Controller): string {
  return `${Buffer.from(hostid).toString('hex')} ${hostnqn}`;
}
