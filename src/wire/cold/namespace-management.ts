/** What Namespace Management creates a namespace from: the host's part of Identify Namespace. NVM Command Set 1.2 section 4.1.6. */
import { IDENTIFY_BYTES } from '../../spec/identify.ts';
import { type Codec, type Decoded, structure } from './table.ts';

const CREATE = [
  [0, 'nsze', 'u64'],
  [8, 'ncap', 'u64'],
  [16, 'reserved', 10],
  [26, 'flbas', 'u8'],
  [27, 'reserved', 2],
  [29, 'dps', 'u8'],
  [30, 'nmic', 'u8'],
  [31, 'reserved', 61],
  [92, 'anagrpid', 'u32'],
  [96, 'reserved', 4],
  [100, 'nvmsetid', 'u16'],
  [102, 'endgid', 'u16'],
  [104, 'reserved', 280],
  [384, 'lbstm', 'u64'],
  [392, 'nphndls', 'u16'],
  [394, 'reserved', 3702],
] as const;
/** @public */
export type NamespaceCreate = Decoded<typeof CREATE>;
/** @public */
export const namespaceCreateCodec: Codec<NamespaceCreate> = structure('NamespaceCreate', IDENTIFY_BYTES, CREATE);
