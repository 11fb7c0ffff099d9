/** Finds and loads the addon. Everything but what needs it works without it; who needs it says what is missing and how to get it. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { NATIVE_REVISION, type NativeBinding } from './binding.ts';
import { NativeError } from './native-error.ts';
import { COMPLETION_WORDS, ENTRY_WORDS } from './operation-layout.ts';

let loaded: { readonly binding: NativeBinding | undefined; readonly reason: string } | undefined;

/** `NVMEFERRY_NATIVE=off` does without the addon; a path loads that file (sanitizer builds). */
const CHOICE = 'NVMEFERRY_NATIVE';

function packageRoot(): string {
  let at = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(at, 'package.json')) && dirname(at) !== at) at = dirname(at);
  return at;
}

function load(): { binding: NativeBinding | undefined; reason: string } {
  const choice = process.env[CHOICE];
  if (choice === 'off') return { binding: undefined, reason: `${CHOICE}=off` };
  try {
    const require = createRequire(import.meta.url);
    let binding: NativeBinding;
    if (choice !== undefined && choice !== '') {
      binding = require(choice) as NativeBinding;
    } else {
      const find = require('node-gyp-build') as (folder: string) => NativeBinding;
      binding = find(join(packageRoot(), 'native'));
    }
    const sizes = binding.entryBytes === ENTRY_WORDS * 4 && binding.completionBytes === COMPLETION_WORDS * 4;
    if (binding.revision !== NATIVE_REVISION || !sizes) {
      return { binding: undefined, reason: 'it was built from another version; run npm run build:native' };
    }
    return { binding, reason: '' };
  } catch (error) {
    const message = (error as Error).message.split('\n')[0] ?? '';
    return { binding: undefined, reason: message };
  }
}

/** The addon of this thread, or undefined. */
export function nativeBinding(): NativeBinding | undefined {
  loaded ??= load();
  return loaded.binding;
}

/** Why `nativeBinding()` is undefined; empty if it is not. */
export function nativeMissingReason(): string {
  loaded ??= load();
  return loaded.reason;
}

/**
 * @param what begins the message: `Backend nvme`
 * @throws NativeError with the remedy
 */
export function requireNative(what: string): NativeBinding {
  const binding = nativeBinding();
  if (binding !== undefined) return binding;
  const remedy =
    process.platform === 'linux'
      ? 'build it with `npm run build:native` in the package (needs a C++ compiler, make and python3)'
      : `it exists for Linux, not for ${process.platform}`;
  throw new NativeError(`${what} needs the native addon, which did not load (${loaded?.reason ?? ''}); ${remedy}`);
}
