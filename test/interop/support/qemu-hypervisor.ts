/**
 * What `nvmeferry migrate --hypervisor` runs, for a QEMU that is reached by its machine protocol: `pause` stops the CPUs, `resume source` lets them go on.
 * Arguments: QMP socket of the source's QEMU, then those of the command. QEMU moves no CPU state of a VM with a vfio-user device: there is nothing to attach to.
 */
import { QmpClient } from './qmp-client.ts';

const [socket, verb, end] = process.argv.slice(2) as [string, string, string | undefined];

const COMMANDS: Readonly<Record<string, string>> = { pause: 'stop', 'resume source': 'cont' };

const command = COMMANDS[end === undefined ? verb : `${verb} ${end}`];
if (command === undefined) {
  console.error(`QEMU has no way to ${verb} ${end} with a vfio-user device`);
  process.exit(1);
}
const qmp = await QmpClient.connect(socket, 5000);
// the answer comes when the CPUs stand still and QEMU's own devices are quiet; either may come again
await qmp.execute(command);
qmp.close();
