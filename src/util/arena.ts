/** Memory that may be sent from where it lies: by place, without a view of each piece. */
export interface Arena {
  readonly bytes: Uint8Array;
  /** The number by which the native addon knows it; 0: it does not. */
  readonly id: number;
}
