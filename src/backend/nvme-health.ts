/** The SMART / Health Information of a local SSD, read now and then, so that whoever asks the target has it at once. */
import { NSID_ALL } from '../spec/identify.ts';
import { LogPage } from '../spec/log-page.ts';
import { AdminOpcode } from '../spec/opcode.ts';
import { SMART_LOG_BYTES, type SmartLog, smartLogCodec } from '../wire/cold/log-smart.ts';
import type { BackendHealth } from './block-backend.ts';
import type { NvmeDevice } from './nvme-device.ts';

const INTERVAL_MS = 30_000;

export class NvmeHealth {
  readonly #device: NvmeDevice;
  readonly #timer: NodeJS.Timeout;
  #last: BackendHealth | undefined;
  #reading: Promise<void> | undefined;
  #listener: () => void = () => {};

  constructor(device: NvmeDevice) {
    this.#device = device;
    this.#timer = setInterval(() => void this.refresh(), INTERVAL_MS);
    this.#timer.unref();
  }

  /** Undefined if the device never told. */
  get last(): BackendHealth | undefined {
    return this.#last;
  }

  /** `listener` is called whenever it was read. */
  watch(listener: () => void): void {
    this.#listener = listener;
  }

  refresh(): Promise<void> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #read(): Promise<void> {
    const data = new Uint8Array(SMART_LOG_BYTES);
    const cdw10To15 = [LogPage.SmartHealth | 0x8000 | ((SMART_LOG_BYTES / 4 - 1) << 16)]; // RAE: events are the kernel's
    try {
      const answer = await this.#device.admin({ opcode: AdminOpcode.GetLogPage, nsid: NSID_ALL, cdw10To15, data });
      if (answer.status !== 0) return;
      this.#last = healthOf(smartLogCodec.decode(data));
    } catch {
      return; // a device that is gone is noticed by its I/O
    }
    this.#listener();
  }

  /** Resolves when no command is under way. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#reading;
  }
}

export function healthOf(log: SmartLog): BackendHealth {
  return {
    criticalWarning: log.criticalWarning,
    mediaErrors: log.mediaErrors,
    device: {
      temperatureKelvin: log.temperature,
      availableSpare: log.availSpare,
      availableSpareThreshold: log.spareThresh,
      percentageUsed: log.percentUsed,
      powerCycles: log.powerCycles,
      powerOnHours: log.powerOnHours,
      unsafeShutdowns: log.unsafeShutdowns,
    },
  };
}
