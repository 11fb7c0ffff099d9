/** Feature 16h as a controller keeps it. Base 2.1 section 5.1.25.1.14. */
export interface HostBehaviorSettings {
  /** The host handles Command Retry Delay. */
  readonly acre: number;
  /** The host handles telemetry data area 4. */
  readonly etdas: number;
  /** CDFE: bit n enables Copy descriptor format n. */
  readonly copyFormatsEnabled: number;
}

export const HOST_BEHAVIOR_DEFAULT: HostBehaviorSettings = { acre: 0, etdas: 0, copyFormatsEnabled: 0 };
