/** I/O Command Set Independent Identify Namespace (CNS 08h). Base 2.1 figure 319. */
import { IDENTIFY_BYTES } from '../../spec/identify.ts';
import { type Codec, type Decoded, structure } from './table.ts';

const INDEPENDENT = [
  [0, 'nsfeat', 'u8'],
  [1, 'nmic', 'u8'],
  [2, 'rescap', 'u8'],
  [3, 'fpi', 'u8'],
  [4, 'anagrpid', 'u32'],
  [8, 'nsattr', 'u8'],
  [9, 'reserved', 1],
  [10, 'nvmsetid', 'u16'],
  [12, 'endgid', 'u16'],
  [14, 'nstat', 'u8'], // bit 0 NRDY: hosts skip a namespace without it
  [15, 'kpios', 'u8'],
  [16, 'maxkt', 'u16'],
  [18, 'reserved', 2],
  [20, 'rgrpid', 'u32'],
  [24, 'reserved', 4072],
] as const;
/** @public */
export type IndependentNamespace = Decoded<typeof INDEPENDENT>;
/** @public */
export const independentNamespaceCodec: Codec<IndependentNamespace> = structure(
  'IndependentNamespace',
  IDENTIFY_BYTES,
  INDEPENDENT,
);
