/** Tests that need the addon: skipped loudly where it is not built, failing where it must be (NVMEFERRY_REQUIRE_NATIVE=1, as CI has it). */
import type { Context } from 'mocha';
import type { NativeBinding } from '../../src/native/binding.ts';
import { IoEngine, type IoEngineOptions } from '../../src/native/io-engine.ts';
import { nativeBinding, nativeMissingReason } from '../../src/native/load.ts';

export const ENGINE_MODES = ['io_uring', 'thread-pool'] as const;

export function needNative(context: Context): NativeBinding {
  const binding = nativeBinding();
  if (binding !== undefined) return binding;
  const message = `the native addon is not built (${nativeMissingReason()}): npm run build:native`;
  if (process.env.NVMEFERRY_REQUIRE_NATIVE === '1') throw new Error(message);
  console.log(`      skipped: ${message}`);
  return context.skip();
}

/** An engine of that mode; skipped where the kernel forbids io_uring. */
export function openEngine(
  context: Context,
  options: IoEngineOptions & { mode: 'io_uring' | 'thread-pool' },
): IoEngine {
  const binding = needNative(context);
  try {
    return new IoEngine(binding, options);
  } catch (error) {
    if (options.mode !== 'io_uring') throw error;
    console.log(`      skipped: ${(error as Error).message}`);
    return context.skip();
  }
}

/** Waits for turns of the event loop until `condition` holds. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}
