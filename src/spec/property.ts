/** Controller properties (Base 2.1 section 3.1.4) that exist on NVMe over Fabrics. */

export const Property = { CAP: 0x00, VS: 0x08, CC: 0x14, CSTS: 0x1c, NSSR: 0x20, NSSD: 0x64, CRTO: 0x68 } as const;

/** Fields of CC: bit position and mask of the shifted value. */
export const Cc = {
  EN: 0x1,
  cssShift: 4,
  cssMask: 0x7,
  mpsShift: 7,
  mpsMask: 0xf,
  amsShift: 11,
  amsMask: 0x7,
  shnShift: 14,
  shnMask: 0x3,
  iosqesShift: 16,
  iosqesMask: 0xf,
  iocqesShift: 20,
  iocqesMask: 0xf,
} as const;

export const Csts = { RDY: 0x1, CFS: 0x2, shstMask: 0xc, shstInProgress: 0x4, shstComplete: 0x8 } as const;

/** VS values. */
export const NVME_VERSION_2_1 = 0x00020100;
