/** Layouts of the fixed-size structures, taken from the specifications' tables and not from `src/`. */
import * as wire from '../../src/wire.ts';
import type { Layout } from './layout.ts';

/** TCP 1.0 figures 19, 20, 21. Bytes 1 (FLAGS) are reserved in 1.0 and named in later revisions. */
const icReq: Layout = {
  codec: wire.icReqCodec,
  size: 128,
  fields: 'type 0, flags 1, hlen 2, plen 4..7, pfv 8..9, hpda 10, dgst 11 /03, maxr2t 12..15',
};
const icResp: Layout = {
  codec: wire.icRespCodec,
  size: 128,
  fields: 'type 0, flags 1, hlen 2, plen 4..7, pfv 8..9, cpda 10, dgst 11 /03, maxh2cdata 12..15',
};
const termReqHeader: Layout = {
  codec: wire.termReqHeaderCodec,
  size: 24,
  fields: 'type 0, hlen 2, plen 4..7, fes 8..9, fei 10..13',
};

/** Base 2.1 section 6: SQE bytes 40 to 63, and Connect's data. */
const connectCommand: Layout = {
  codec: wire.connectCommandCodec,
  size: 24,
  fields: 'recfmt 0..1, qid 2..3, sqsize 4..5, cattr 6 /1f, kato 8..11, nvmsetid 12..13',
};
const connectData: Layout = {
  codec: wire.connectDataCodec,
  size: 1024,
  fields: 'hostid 0..15 bytes, cntlid 16..17, subnqn 256..511 text, hostnqn 512..767 text',
};
const propertyGet: Layout = { codec: wire.propertyGetCodec, size: 24, fields: 'attrib 0 /07, ofst 4..7' };
const propertySet: Layout = {
  codec: wire.propertySetCodec,
  size: 24,
  fields: 'attrib 0 /07, ofst 4..7, value 8..11, valueHigh 12..15',
};

/** Base 2.1 figures 294 and 295. */
const discoveryHeader: Layout = {
  codec: wire.discoveryLogHeaderCodec,
  size: 1024,
  fields: 'genctr 0..7, numrec 8..15, recfmt 16..17, dlpf 18, tdlpl 20..23',
};
const discoveryEntry: Layout = {
  codec: wire.discoveryLogEntryCodec,
  size: 1024,
  fields: `trtype 0, adrfam 1, subtype 2, treq 3, portid 4..5, cntlid 6..7, asqsz 8..9, eflags 10..11,
    trsvcid 32..63 ascii, subnqn 256..511 text, traddr 512..767 ascii, sectype 768`,
};

/** Base 2.1 figures 312 and 313, with the names of bytes 135..143, 388..395 and 1807 from later revisions. */
const POWER_STATE = `mp 0..1, flags 3 /03, enlat 4..7, exlat 8..11, rrt 12, rrl 13, rwt 14, rwl 15, idlp 16..17, ips 18,
  actp 20..21, apws 22`;
const powerState: Layout = { codec: wire.powerStateCodec, size: 32, fields: POWER_STATE };
const identifyController: Layout = {
  codec: wire.identifyControllerCodec,
  size: 4096,
  fields: `
    vid 0..1, ssvid 2..3, sn 4..23 ascii, mn 24..63 ascii, fr 64..71 ascii, rab 72, ieee 73..75, cmic 76, mdts 77
    cntlid 78..79, ver 80..83, rtd3r 84..87, rtd3e 88..91, oaes 92..95, ctratt 96..99, rrls 100..101, bpcap 102
    nssl 104..107, plsi 110, cntrltype 111, fguid 112..127 bytes, crdt1 128..129, crdt2 130..131, crdt3 132..133
    crcap 134, ciu 135, cirn 136..143, nvmsr 253, vwci 254, mec 255
    oacs 256..257, acl 258, aerl 259, frmw 260, lpa 261, elpe 262, npss 263, avscc 264, apsta 265, wctemp 266..267
    cctemp 268..269, mtfa 270..271, hmpre 272..275, hmmin 276..279, tnvmcap 280..295, unvmcap 296..311, rpmbs 312..315
    edstt 316..317, dsto 318, fwug 319, kas 320..321, hctma 322..323, mntmt 324..325, mxtmt 326..327, sanicap 328..331
    hmminds 332..335, hmmaxd 336..337, nsetidmax 338..339, endgidmax 340..341, anatt 342, anacap 343
    anagrpmax 344..347, nanagrpid 348..351, pels 352..355, domainid 356..357, kpioc 358, mptfawr 360..361
    megcap 368..383, tmpthha 384, cqt 386..387, cdpa 388..389, mup 390..391, ipmsr 392..393, msmt 394..395
    sqes 512, cqes 513, maxcmd 514..515, nn 516..519, oncs 520..521, fuses 522..523, fna 524, vwc 525, awun 526..527
    awupf 528..529, icsvscc 530, nwpc 531, acwu 532..533, ocfs 534..535, sgls 536..539, mnan 540..543
    maxdna 544..559, maxcna 560..563, oaqd 564..567, rhiri 568, hirt 569, cmmrtd 570..571, nmmrtd 572..573
    minmrtg 574, maxmrtg 575, trattr 576, mcudmq 578..579, mnsudmq 580..581, mcmr 582..583, nmcmr 584..585
    mcdqpc 586..587, subnqn 768..1023 text
    ioccsz 1792..1795, iorcsz 1796..1799, icdoff 1800..1801, fcatt 1802, msdbd 1803, ofcs 1804..1805, dctype 1806
    ccrl 1807, psd 2048..3071 {psd}, vs 3072..4095 bytes`,
  elements: { psd: { size: 32, fields: POWER_STATE } },
};

/** NVM Command Set 1.2 figures 114 and 116. */
const LBA_FORMAT = 'ms 0..1, lbads 2, rp 3 /03';
const lbaFormat: Layout = { codec: wire.lbaFormatCodec, size: 4, fields: LBA_FORMAT };
const identifyNamespace: Layout = {
  codec: wire.identifyNamespaceCodec,
  size: 4096,
  fields: `
    nsze 0..7, ncap 8..15, nuse 16..23, nsfeat 24, nlbaf 25, flbas 26, mc 27, dpc 28, dps 29, nmic 30, rescap 31, fpi 32
    dlfeat 33, nawun 34..35, nawupf 36..37, nacwu 38..39, nabsn 40..41, nabo 42..43, nabspf 44..45, noiob 46..47
    nvmcap 48..63, npwg 64..65, npwa 66..67, npdg 68..69, npda 70..71, nows 72..73, mssrl 74..75, mcl 76..79, msrc 80
    kpios 81, nulbaf 82, kpiodaag 84..87, anagrpid 92..95, nsattr 99, nvmsetid 100..101, endgid 102..103
    nguid 104..119 bytes, eui64 120..127 bytes, lbaf 128..383 {lbaf}, vs 384..4095 bytes`,
  elements: { lbaf: { size: 4, fields: LBA_FORMAT } },
};
const nvmNamespace: Layout = {
  codec: wire.nvmNamespaceCodec,
  size: 4096,
  fields: `lbstm 0..7, pic 8, pifa 9, elbaf 12..267 [4], npdgl 268..271, nprg 272..275, npra 276..279, nors 280..283
    npdal 284..287, lbapss 288..291, tlbaag 292..295`,
};
const nvmController: Layout = {
  codec: wire.nvmControllerCodec,
  size: 4096,
  fields: `vsl 0, wzsl 1, wusl 2, dmrl 3, dmrsl 4..7, dmsl 8..15, kpiocap 16, wzdsl 17, aocs 18..19, ver 20..23
    lbamqf 24`,
};
const independentNamespace: Layout = {
  codec: wire.independentNamespaceCodec,
  size: 4096,
  fields: `nsfeat 0, nmic 1, rescap 2, fpi 3, anagrpid 4..7, nsattr 8, nvmsetid 10..11, endgid 12..13, nstat 14, kpios 15
    maxkt 16..17, rgrpid 20..23`,
};
const ioCommandSets: Layout = { codec: wire.ioCommandSetsCodec, size: 4096, fields: 'iocsc 0..4095 [8]' };

/** Base 2.1 section 5.1.12.1. */
const errorLogEntry: Layout = {
  codec: wire.errorLogEntryCodec,
  size: 64,
  fields: `errorCount 0..7, sqid 8..9, cmdid 10..11, statusField 12..13, parmErrorLocation 14..15, lba 16..23, nsid 24..27
    vs 28, trtype 29, csi 30, opcode 31, cs 32..39, trtypeSpecInfo 40..41, logPageVersion 63`,
};
const smartLog: Layout = {
  codec: wire.smartLogCodec,
  size: 512,
  fields: `criticalWarning 0, temperature 1..2, availSpare 3, spareThresh 4, percentUsed 5
    enduranceGrpCriticalWarningSummary 6, dataUnitsRead 32..47, dataUnitsWritten 48..63, hostReadCommands 64..79
    hostWriteCommands 80..95, controllerBusyTime 96..111, powerCycles 112..127, powerOnHours 128..143
    unsafeShutdowns 144..159, mediaErrors 160..175, numErrLogEntries 176..191, warningTempTime 192..195
    criticalCompTime 196..199, temperatureSensor 200..215 [2], thmTemp1TransCount 216..219
    thmTemp2TransCount 220..223, thmTemp1TotalTime 224..227, thmTemp2TotalTime 228..231
    opLifetimeEnergyConsumed 232..239, intervalPowerMeasurement 240..243`,
};
const firmwareLog: Layout = {
  codec: wire.firmwareLogCodec,
  size: 512,
  fields: 'afi 0 /77, frs 8..63 {frs}',
  elements: { frs: { size: 8, fields: 'fr 0..7 ascii' } },
};
const effectsLog: Layout = { codec: wire.effectsLogCodec, size: 4096, fields: 'acs 0..1023 [4], iocs 1024..2047 [4]' };
const supportedLogPages: Layout = { codec: wire.supportedLogPagesCodec, size: 1024, fields: 'lids 0..1023 [4]' };
const featureEffects: Layout = { codec: wire.featureEffectsCodec, size: 1024, fields: 'fis 0..1023 [4]' };

/** Base 2.1 section 5.1.25.1.14. */
/** NVM Command Set 1.2 sections 4.2.1 and 4.1.4.5. */
const lbaStatus: Layout = { codec: wire.lbaStatusCodec, size: 8, fields: 'nlsd 0..3, cmpc 4' };
const lbaStatusDescriptor: Layout = {
  codec: wire.lbaStatusDescriptorCodec,
  size: 16,
  fields: 'dslba 0..7, nlb 8..11, status 13 /07',
};
const lbaStatusLog: Layout = {
  codec: wire.lbaStatusLogCodec,
  size: 16,
  fields: 'lslplen 0..3, nlslne 4..7, estulb 8..11, lsgc 14..15',
};
const lbaStatusLogElement: Layout = {
  codec: wire.lbaStatusLogElementCodec,
  size: 16,
  fields: 'neid 0..3, nlrd 4..7, ratype 8',
};

const hostBehavior: Layout = {
  codec: wire.hostBehaviorCodec,
  size: 512,
  fields: 'acre 0, etdas 1, lbafee 2, hdisns 3, cdfe 4..5',
};

export const LAYOUTS: Readonly<Record<string, Layout>> = {
  icReq,
  icResp,
  termReqHeader,
  connectCommand,
  connectData,
  propertyGet,
  propertySet,
  discoveryHeader,
  discoveryEntry,
  powerState,
  identifyController,
  lbaFormat,
  identifyNamespace,
  nvmNamespace,
  nvmController,
  independentNamespace,
  ioCommandSets,
  errorLogEntry,
  smartLog,
  firmwareLog,
  effectsLog,
  supportedLogPages,
  featureEffects,
  hostBehavior,
  lbaStatus,
  lbaStatusDescriptor,
  lbaStatusLog,
  lbaStatusLogElement,
};
