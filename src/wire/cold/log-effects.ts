/** Commands Supported and Effects log page (LID 05h). Base 2.1 section 5.1.12.1.6. */
import { type Codec, type Decoded, structure } from './table.ts';

export const EFFECTS_LOG_BYTES = 4096;

const EFFECTS = [
  [0, 'acs', 'u32[]', 256], // by opcode
  [1024, 'iocs', 'u32[]', 256],
  [2048, 'reserved', 2048],
] as const;
/** @public */
export type EffectsLog = Decoded<typeof EFFECTS>;
/** @public */
export const effectsLogCodec: Codec<EffectsLog> = structure('EffectsLog', EFFECTS_LOG_BYTES, EFFECTS);

/** Bits of one command's dword; the scope is 1 << 20 and up. @public */
export const CommandEffect = {
  Supported: 0x0000_0001,
  LogicalBlockContentChange: 0x0000_0002,
  NamespaceCapabilityChange: 0x0000_0004,
  NamespaceInventoryChange: 0x0000_0008,
  ControllerCapabilityChange: 0x0000_0010,
  cseShift: 16,
  UuidSelection: 0x0008_0000,
  ScopeNamespace: 0x0010_0000,
  ScopeController: 0x0020_0000,
  ScopeSubsystem: 0x0200_0000,
} as const;
