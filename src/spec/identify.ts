/** CNS values of Identify. Base 2.1 figure 311. */
export const Cns = {
  Namespace: 0x00,
  Controller: 0x01,
  ActiveNamespaceList: 0x02,
  NamespaceDescriptors: 0x03,
  CommandSetNamespace: 0x05,
  CommandSetController: 0x06,
  CommandSetActiveNamespaceList: 0x07,
  IndependentNamespace: 0x08,
  AllocatedNamespaceList: 0x10,
  AllocatedNamespace: 0x11,
  NamespaceControllerList: 0x12,
  ControllerList: 0x13,
  UuidList: 0x17,
  CommandSetAllocatedNamespaceList: 0x1a,
  CommandSetAllocatedNamespace: 0x1b,
  CommandSetCombinations: 0x1c,
  IndependentAllocatedNamespace: 0x1f,
  ControllerStateFormats: 0x20,
} as const;
export const IDENTIFY_BYTES = 4096;
/** Controller types (CNTRLTYPE). */
export const ControllerType = { Io: 1, Discovery: 2, Administrative: 3 } as const;
export const NSID_ALL = 0xffffffff;
