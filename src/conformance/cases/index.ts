/** Every case for targets, in the order of the checklists. */
import type { ConformanceCase } from '../case.ts';
import { compareCases, copyCases, lbaStatusCases, protectionCases } from './compare-copy.ts';
import { connectCases, keepAliveCases, propertyCases } from './controller.ts';
import { identifyCases } from './identify.ts';
import { ioCases } from './io.ts';
import { eventCases, featureCases, logCases } from './logs-features.ts';
import { anaCases, managementCases } from './management.ts';
import { reservationCases } from './reservations.ts';
import { tcpCapsuleCases } from './tcp-capsules.ts';
import { tcpC2hCases, tcpH2cCases } from './tcp-data.ts';
import { tcpDigestCases } from './tcp-digests.ts';
import { tcpHeaderCases } from './tcp-headers.ts';
import { tcpSetupCases } from './tcp-setup.ts';
import { tcpTerminationCases } from './tcp-termination.ts';

const numberOf = ({ id }: ConformanceCase): number => Number(id.slice(id.lastIndexOf('-') + 1));

export const TARGET_CASES: readonly ConformanceCase[] = [
  ...[
    tcpSetupCases,
    tcpHeaderCases,
    tcpDigestCases,
    tcpCapsuleCases,
    tcpC2hCases,
    tcpH2cCases,
    tcpTerminationCases,
  ].flat(),
  ...[
    propertyCases,
    connectCases,
    keepAliveCases,
    identifyCases,
    logCases,
    eventCases,
    featureCases,
    ioCases,
    compareCases,
    copyCases,
    lbaStatusCases,
    protectionCases,
    reservationCases,
    managementCases,
    anaCases,
  ]
    .flat()
    .sort((a, b) => numberOf(a) - numberOf(b)),
];
