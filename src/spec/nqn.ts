/** Well-known NQNs. Base 2.1 section 4.7. */
export const DISCOVERY_NQN = 'nqn.2014-08.org.nvmexpress.discovery';
export const NQN_BYTES_MAX = 223;
/** IANA's port of Discovery controllers, and the one of NVMe-oF. */
export const DISCOVERY_PORT = 8009;
export const NVMEOF_PORT = 4420;
