/** Admin commands that go to the device below as they came: what a backend that is a local SSD offers beside its blocks. */

/** @public */
export interface DeviceCommand {
  readonly opcode: number;
  /** `own`: the backend's namespace, whatever its NSID is on the device. */
  readonly nsid: number | 'own';
  readonly cdw2: number;
  readonly cdw3: number;
  readonly cdw10To15: readonly number[];
  /** Filled by commands from device to host; not changed by others. */
  readonly data?: Uint8Array | undefined;
}

/** @public */
export interface DeviceAnswer {
  /** 15 bits; 0 is success. */
  readonly status: number;
  readonly result0: number;
  readonly result1: number;
}

/** @public */
export interface DevicePassthrough {
  /** Which device it is: equal for all namespaces of one. */
  readonly device: string;
  /** What the kernel or the device has against it becomes a status. */
  admin(command: DeviceCommand): Promise<DeviceAnswer>;
}
