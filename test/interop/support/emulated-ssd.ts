/** QEMU's NVMe controllers, one namespace each, behind slots from which they can be pulled. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface EmulatedSsd {
  readonly bytes: number;
  /** Properties of the controller, such as `mdts=3`. */
  readonly controller: string;
  /** Properties of the namespace, such as `logical_block_size=512`. */
  readonly namespace: string;
  /** What the disk holds at first. */
  readonly fill?: number;
  /** 512-byte sectors where reads, or writes, fail. */
  readonly badReads?: number;
  readonly badWrites?: number;
}

/**
 * @param name serial number; `ctrl-NAME` is what `device_del` pulls
 * @param slot different for each
 */
export function emulatedSsd(folder: string, name: string, slot: number, ssd: EmulatedSsd): string[] {
  const file = join(folder, name);
  writeFileSync(file, Buffer.alloc(ssd.bytes, ssd.fill ?? 0));
  return [
    ...['-drive', `${drive(file, ssd)},if=none,id=drive-${name},discard=unmap`],
    ...['-device', `pcie-root-port,id=slot-${name},chassis=${slot},slot=${slot}`],
    ...['-device', `nvme,id=ctrl-${name},bus=slot-${name},serial=${name},${ssd.controller}`],
    ...['-device', `nvme-ns,bus=ctrl-${name},drive=drive-${name},nsid=1,${ssd.namespace}`],
  ];
}

function drive(file: string, { badReads, badWrites }: EmulatedSsd): string {
  const fault = (i: number, iotype: string, sector: number | undefined): string =>
    sector === undefined
      ? ''
      : `,file.inject-error.${i}.event=none,file.inject-error.${i}.iotype=${iotype},file.inject-error.${i}.sector=${sector},file.inject-error.${i}.errno=5`;
  if (badReads === undefined && badWrites === undefined) return `file=${file},format=raw`;
  const faults = fault(0, 'read', badReads) + fault(1, 'write', badWrites);
  return `driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename=${file}${faults}`;
}

/** Script: one line per SSD, its serial number and its character device. */
export const listSsds = `
  for controller in /sys/class/nvme/*; do
    [ "$(cat "$controller/transport")" = pcie ] || continue
    wait_for 20 test -e "$controller"/ng* || true
    for node in "$controller"/ng*; do echo "$(tr -d ' ' < "$controller/serial") /dev/\${node##*/}"; done
  done`;
