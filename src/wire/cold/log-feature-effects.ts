/** Feature Identifiers Supported and Effects log page (LID 12h). Base 2.1 section 5.1.12.1.18. */
import { type Codec, type Decoded, structure } from './table.ts';

export const FEATURE_EFFECTS_LOG_BYTES = 1024;

const FEATURE_EFFECTS = [[0, 'fis', 'u32[]', 256]] as const;
/** @public */
export type FeatureEffectsLog = Decoded<typeof FEATURE_EFFECTS>;
/** `fis[fid]` is that feature's dword. @public */
export const featureEffectsCodec: Codec<FeatureEffectsLog> = structure(
  'FeatureEffectsLog',
  FEATURE_EFFECTS_LOG_BYTES,
  FEATURE_EFFECTS,
);
/** Bits of one feature's dword. @public */
export const FeatureEffect = {
  Supported: 0x0000_0001,
  UserDataContentChange: 0x0000_0002,
  NamespaceCapabilityChange: 0x0000_0004,
  NamespaceInventoryChange: 0x0000_0008,
  ControllerCapabilityChange: 0x0000_0010,
  UuidSelection: 0x0008_0000,
  ScopeNamespace: 0x0010_0000,
  ScopeController: 0x0020_0000,
  ScopeSubsystem: 0x0200_0000,
} as const;
