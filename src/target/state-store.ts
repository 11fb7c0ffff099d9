/** Where a target keeps what must outlive its process: reservations that persist through power loss, namespaces created by hosts. */

/** Named JSON values, each replaced as a whole. */
export interface StateStore {
  /** The value as last saved, or undefined. Synchronous: it is called while a target is built. @throws NvmeofError NVMEOF_ERR_STATE_STORE */
  load(name: string): unknown;
  /**
   * Resolves when the value is durable: after a crash at any moment `load` gives this value or the one before, never a part.
   * @param value JSON; undefined removes it
   * @throws NvmeofError NVMEOF_ERR_STATE_STORE with the remedy; the value before is kept then
   */
  save(name: string, value: unknown): Promise<void>;
}
