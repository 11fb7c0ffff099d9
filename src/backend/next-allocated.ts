/** Which parts of a sparse file hold data: SEEK_DATA and SEEK_HOLE of lseek(2). */
import type { NativeBinding } from '../native/binding.ts';
import { errnoName } from '../native/native-error.ts';
import type { ByteRun } from './block-backend.ts';

/**
 * The first data at or after `fromBytes`, and before `endBytes`.
 * @param unitBytes the ends are widened to multiples of it
 * @returns everything, if the file system cannot be asked; undefined if there is none
 */
export function nextAllocatedOf(
  binding: NativeBinding,
  fd: number,
  unitBytes: number,
  fromBytes: number,
  endBytes: number,
): ByteRun | undefined {
  const data = binding.seek(fd, fromBytes, false);
  if (data < 0) return errnoName(data) === 'ENXIO' ? undefined : { startBytes: fromBytes, endBytes };
  if (data >= endBytes) return undefined;
  let end = data;
  do {
    const hole = binding.seek(fd, end, true);
    end = hole < 0 ? endBytes : Math.max(end + 1, Math.ceil(hole / unitBytes) * unitBytes);
    // runs that touch once widened are one
  } while (end < endBytes && binding.seek(fd, end, false) === end);
  return {
    startBytes: Math.max(fromBytes, Math.floor(data / unitBytes) * unitBytes),
    endBytes: Math.min(end, endBytes),
  };
}
