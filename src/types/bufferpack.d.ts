/** bufferpack 0.0.6 ships no types. Only what `wire/cold/table.ts` uses. */
declare module 'bufferpack' {
  interface Bufferpack {
    /** Bytes of a format. */
    calcLength(format: string): number;
    /** `undefined` if `bytes` is too short. */
    unpack(format: string, bytes: Uint8Array, offset: number): (number | Uint8Array)[] | undefined;
    /** `false` if `bytes` or `values` is too short, after a partial write. */
    packTo(format: string, bytes: Uint8Array, offset: number, values: (number | Uint8Array)[]): Uint8Array | false;
  }
  const bufferpack: Bufferpack;
  export default bufferpack;
}
