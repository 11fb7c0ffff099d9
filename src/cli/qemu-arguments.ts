/** What QEMU is started with for a controller at that socket: memory that it can reach is as essential as the device. */
export function qemuArguments(socket: string): string[] {
  const device = JSON.stringify({ driver: 'vfio-user-pci', socket: { type: 'unix', path: socket } });
  return [
    '-object memory-backend-memfd,id=ram0,size=1G,share=on -machine q35,memory-backend=ram0 -m 1G',
    `-device '${device.replaceAll("'", "'\\''")}'`,
  ];
}
