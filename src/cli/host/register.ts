import type { Command } from 'commander';
import { registerAnaLog } from './ana.ts';
import { registerBench } from './bench.ts';
import {
  registerCompare,
  registerCopy,
  registerGetLbaStatus,
  registerVerify,
  registerWriteUncor,
} from './block-verbs.ts';
import { registerConnect } from './connect.ts';
import { registerDiscover, registerList, registerListSubsys } from './discover.ts';
import { registerGetFeature, registerSetFeature } from './features.ts';
import { registerIdCtrl, registerIdNs, registerListNs } from './identify.ts';
import { registerCmdsetIndIdNs, registerNvmIdCtrl, registerNvmIdNs } from './identify-nvm.ts';
import { registerDsm, registerFlush, registerRead, registerWrite, registerWriteZeroes } from './io.ts';
import { registerLm } from './lm/register.ts';
import { registerEffectsLog, registerErrorLog, registerFwLog, registerGetLog, registerSmartLog } from './logs.ts';
import { registerNamespaceVerbs } from './namespaces.ts';
import { registerPassthru } from './passthru.ts';
import {
  registerResvAcquire,
  registerResvNotifLog,
  registerResvRegister,
  registerResvRelease,
  registerResvReport,
} from './reservation.ts';
import { registerFidSupportEffectsLog, registerLbaStatusLog, registerSupportedLogPages } from './support-logs.ts';

/** Adds the verbs of the host side: nvme-cli's names, options and output. */
export function registerHostCommands(program: Command): void {
  registerDiscover(program);
  registerList(program);
  registerListSubsys(program);
  registerIdCtrl(program);
  registerIdNs(program);
  registerListNs(program);
  registerNvmIdCtrl(program);
  registerNvmIdNs(program);
  registerCmdsetIndIdNs(program);
  registerNamespaceVerbs(program);
  registerSmartLog(program);
  registerErrorLog(program);
  registerFwLog(program);
  registerEffectsLog(program);
  registerSupportedLogPages(program);
  registerFidSupportEffectsLog(program);
  registerLbaStatusLog(program);
  registerAnaLog(program);
  registerGetLog(program);
  registerGetFeature(program);
  registerSetFeature(program);
  registerRead(program);
  registerWrite(program);
  registerFlush(program);
  registerWriteZeroes(program);
  registerDsm(program);
  registerCompare(program);
  registerVerify(program);
  registerWriteUncor(program);
  registerCopy(program);
  registerGetLbaStatus(program);
  registerResvRegister(program);
  registerResvAcquire(program);
  registerResvRelease(program);
  registerResvReport(program);
  registerResvNotifLog(program);
  registerLm(program);
  registerPassthru(program);
  registerConnect(program);
  registerBench(program);
}
