/** Features of controllers whose queues stand in host memory: interrupt coalescing and vector configuration. Base 2.1 sections 5.1.25.2.1, 5.1.25.2.2. */
import { Feature } from '../../spec/feature.ts';
import { sqeCdw11 } from '../../wire/sqe.ts';
import type { Controller } from '../controller.ts';
import type { Request } from '../request.ts';
import type { FeatureEntry } from './feature.ts';

const COALESCING_MASK = 0xffff;
const COALESCING_DISABLED = 0x1_0000;

const isPcie = ({ memory }: Controller): boolean => memory !== undefined;
const vectorOf = (request: Request): number => sqeCdw11(request.sqe, request.sqeBase) & 0xffff;
/** Where `Controller.features` keeps the setting of one vector. */
const vectorKey = (vector: number): number => (Feature.InterruptVectorConfiguration << 16) | vector;

const interruptCoalescing: FeatureEntry = {
  fid: Feature.InterruptCoalescing,
  onDiscovery: false,
  dataBytes: 0,
  initial: 0,
  isServed: isPcie,
  get: (controller) => controller.features.get(Feature.InterruptCoalescing) ?? 0,
  set(controller, request): number {
    controller.features.set(Feature.InterruptCoalescing, sqeCdw11(request.sqe, request.sqeBase) & COALESCING_MASK);
    return 0;
  },
};

const interruptVectorConfiguration: FeatureEntry = {
  fid: Feature.InterruptVectorConfiguration,
  onDiscovery: false,
  dataBytes: 0,
  initial: 0,
  isServed: isPcie,
  check(request): number {
    return vectorOf(request) < request.queuePair.controller!.memory!.vectorsUsable ? 0 : request.invalidField(44);
  },
  get(controller, request): number {
    const vector = vectorOf(request);
    return vector | (controller.features.has(vectorKey(vector)) ? COALESCING_DISABLED : 0);
  },
  set(controller, request): number {
    const key = vectorKey(vectorOf(request));
    if ((sqeCdw11(request.sqe, request.sqeBase) & COALESCING_DISABLED) !== 0) controller.features.set(key, 1);
    else controller.features.delete(key);
    return 0;
  },
};

export const PCIE_FEATURES: readonly FeatureEntry[] = [interruptCoalescing, interruptVectorConfiguration];
