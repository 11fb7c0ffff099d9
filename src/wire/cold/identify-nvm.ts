/** What Identify says of the NVM Command Set alone (CNS 05h and 06h, CSI 0). NVM Command Set 1.2 figures 118 and 120. */
import { IDENTIFY_BYTES } from '../../spec/identify.ts';
import { type Codec, type Decoded, structure } from './table.ts';

const NAMESPACE = [
  [0, 'lbstm', 'u64'],
  [8, 'pic', 'u8'],
  [9, 'pifa', 'u8'],
  [10, 'reserved', 2],
  [12, 'elbaf', 'u32[]', 64], // STS 6:0, PIF 8:7, QPIF 12:9
  [268, 'npdgl', 'u32'],
  [272, 'nprg', 'u32'],
  [276, 'npra', 'u32'],
  [280, 'nors', 'u32'],
  [284, 'npdal', 'u32'],
  [288, 'lbapss', 'u32'],
  [292, 'tlbaag', 'u32'],
  [296, 'reserved', 3800],
] as const;
/** CNS 05h, CSI 0. @public */
export type NvmNamespace = Decoded<typeof NAMESPACE>;
/** @public */
export const nvmNamespaceCodec: Codec<NvmNamespace> = structure('NvmNamespace', IDENTIFY_BYTES, NAMESPACE);

const CONTROLLER = [
  [0, 'vsl', 'u8'], // VSL, WZSL, WUSL, WZDSL: log2 of CAP.MPSMIN pages; 0: see ONCS
  [1, 'wzsl', 'u8'],
  [2, 'wusl', 'u8'],
  [3, 'dmrl', 'u8'],
  [4, 'dmrsl', 'u32'],
  [8, 'dmsl', 'u64'],
  [16, 'kpiocap', 'u8'],
  [17, 'wzdsl', 'u8'],
  [18, 'aocs', 'u16'],
  [20, 'ver', 'u32'],
  [24, 'lbamqf', 'u8'],
  [25, 'reserved', 4071],
] as const;
/** CNS 06h, CSI 0. @public */
export type NvmController = Decoded<typeof CONTROLLER>;
/** @public */
export const nvmControllerCodec: Codec<NvmController> = structure('NvmController', IDENTIFY_BYTES, CONTROLLER);
