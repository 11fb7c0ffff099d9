/** Version 2 of vfio-user's migration, the client's side: states, data of the device, and the log of the pages that it writes. */
import { DeviceFeature, FeatureFlag, VfioUserCommand } from '../../../spec/vfio-user.ts';
import {
  featureCodec,
  loggingControlCodec,
  loggingRangeCodec,
  loggingReportCodec,
  migDataCodec,
  migrationCodec,
  migStateCodec,
} from '../../../wire/cold/vfio-user.ts';
import type { VfioUserClient } from './vfio-user-client.ts';

/** @public */
export interface LoggedRange {
  readonly iova: number;
  readonly lengthBytes: number;
}

const NO_BYTES = new Uint8Array(0);
const CHUNK_BYTES = 1 << 18;

/** Every call throws VfioUserError when the device refuses, TransportError when it is gone. @public */
export class DeviceMigration {
  readonly #client: VfioUserClient;

  constructor(client: VfioUserClient) {
    this.#client = client;
  }

  async #feature(
    number: number,
    way: number,
    data: Uint8Array,
    answerBytes: number = data.length,
  ): Promise<Uint8Array> {
    const body = new Uint8Array(featureCodec.size + data.length);
    featureCodec.encodeInto(body, 0, { argsz: featureCodec.size + answerBytes, flags: number | way });
    body.set(data, featureCodec.size);
    return (await this.#client.link.call(VfioUserCommand.DeviceFeature, body)).subarray(featureCodec.size);
  }

  /** `MigrationFlag` bits. */
  async flags(): Promise<number> {
    const answer = await this.#feature(DeviceFeature.Migration, FeatureFlag.Get, NO_BYTES, migrationCodec.size);
    return Number(migrationCodec.decode(answer).flags);
  }

  /** Whether the feature may be got or set so (`FeatureFlag`). */
  async probe(feature: number, way: number): Promise<boolean> {
    try {
      await this.#feature(feature, way | FeatureFlag.Probe, NO_BYTES);
      return true;
    } catch (error) {
      if (error instanceof Error && 'errno' in error) return false;
      throw error;
    }
  }

  /** `MigState`. */
  async state(): Promise<number> {
    const answer = await this.#feature(DeviceFeature.MigDeviceState, FeatureFlag.Get, NO_BYTES, migStateCodec.size);
    return migStateCodec.decode(answer).state;
  }

  /** There when it resolves. @param state `MigState` */
  async setState(state: number): Promise<void> {
    await this.#feature(DeviceFeature.MigDeviceState, FeatureFlag.Set, migStateCodec.encode({ state }));
  }

  /** The data of the device, to their end (in PRE_COPY: to what there is now). @param chunkBytes of one message */
  async read(chunkBytes: number = CHUNK_BYTES): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    for (;;) {
      const body = migDataCodec.encode({ argsz: migDataCodec.size + chunkBytes, size: chunkBytes });
      const answer = await this.#client.link.call(VfioUserCommand.MigDataRead, body);
      const { size } = migDataCodec.decode(answer);
      parts.push(answer.subarray(migDataCodec.size, migDataCodec.size + size));
      if (size < chunkBytes) return Buffer.concat(parts);
    }
  }

  /** In RESUMING. */
  async write(data: Uint8Array, chunkBytes: number = CHUNK_BYTES): Promise<void> {
    for (let at = 0; at < data.length; at += chunkBytes) {
      const part = data.subarray(at, at + chunkBytes);
      const body = new Uint8Array(migDataCodec.size + part.length);
      migDataCodec.encodeInto(body, 0, { argsz: body.length, size: part.length });
      body.set(part, migDataCodec.size);
      await this.#client.link.call(VfioUserCommand.MigDataWrite, body);
    }
  }

  // ---- log of written pages

  /** @param ranges none: all that is mapped */
  async startLogging(pageBytes: number, ranges: readonly LoggedRange[] = []): Promise<void> {
    const data = new Uint8Array(loggingControlCodec.size + ranges.length * loggingRangeCodec.size);
    loggingControlCodec.encodeInto(data, 0, { pageSize: BigInt(pageBytes), numRanges: ranges.length });
    ranges.forEach(({ iova, lengthBytes }, i) => {
      loggingRangeCodec.encodeInto(data, loggingControlCodec.size + i * loggingRangeCodec.size, {
        iova: BigInt(iova),
        length: BigInt(lengthBytes),
      });
    });
    await this.#feature(DeviceFeature.DmaLoggingStart, FeatureFlag.Set, data);
  }

  async stopLogging(): Promise<void> {
    await this.#feature(DeviceFeature.DmaLoggingStop, FeatureFlag.Set, NO_BYTES);
  }

  /** What was written since the last time; forgets it. A bit per page, in 64-bit words, least significant bit first. */
  async writtenPages({ iova, lengthBytes }: LoggedRange, pageBytes: number): Promise<Uint8Array> {
    const data = loggingReportCodec.encode({
      iova: BigInt(iova),
      length: BigInt(lengthBytes),
      pageSize: BigInt(pageBytes),
    });
    const bitmapBytes = Math.ceil(lengthBytes / pageBytes / 64) * 8;
    const answer = await this.#feature(
      DeviceFeature.DmaLoggingReport,
      FeatureFlag.Get,
      data,
      data.length + bitmapBytes,
    );
    return answer.subarray(loggingReportCodec.size);
  }
}
