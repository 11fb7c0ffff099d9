/**
 * Reservations of one namespace as a plain model, written from the rules of the specification and from nothing else: lists and conditions, one
 * rule after the other. The target must agree with it.
 */
export const MODEL_CONFLICT = 0x83;
export const MODEL_INVALID_FIELD = 0x02;

interface Row {
  host: string;
  key: bigint;
}
export interface ModelNotice {
  host: string;
  type: number;
}

export class ReservationModel {
  gen = 0;
  rtype = 0;
  /** For types 1 to 4. */
  holder: string | null = null;
  rows: Row[] = [];
  ptpl = false;
  /** Notices of the last command. */
  told: ModelNotice[] = [];

  #row(host: string): Row | undefined {
    return this.rows.find((row) => row.host === host);
  }

  isHolder(host: string): boolean {
    if (this.rtype === 5 || this.rtype === 6) return this.#row(host) !== undefined;
    return this.rtype !== 0 && this.holder === host;
  }

  #tellOthers(issuer: string, type: number): void {
    for (const row of this.rows) if (row.host !== issuer) this.told.push({ host: row.host, type });
  }

  #end(): void {
    this.rtype = 0;
    this.holder = null;
  }

  #remove(host: string): void {
    this.rows = this.rows.filter((row) => row.host !== host);
    if (this.rtype >= 5 && this.rows.length === 0) this.#end();
    if (this.rtype >= 1 && this.rtype <= 4 && this.holder === host) this.#end();
  }

  register(host: string, action: number, ignore: boolean, cptpl: number, crkey: bigint, nrkey: bigint): number {
    this.told = [];
    const row = this.#row(host);
    if (action === 0) {
      if (row === undefined) this.rows.push({ host, key: nrkey });
      else if (row.key !== nrkey) return MODEL_CONFLICT;
    } else if (action === 1) {
      if (row === undefined) return MODEL_CONFLICT;
      if (!ignore && row.key !== crkey) return MODEL_CONFLICT;
      const wasRegistrantsOnly = (this.rtype === 3 || this.rtype === 4) && this.holder === host;
      this.#remove(host);
      if (wasRegistrantsOnly) this.#tellOthers(host, 2);
    } else if (ignore) {
      if (row === undefined) this.rows.push({ host, key: nrkey });
      else row.key = nrkey;
    } else {
      if (row === undefined || row.key !== crkey) return MODEL_CONFLICT;
      row.key = nrkey;
    }
    this.gen++;
    if (cptpl === 2) this.ptpl = false;
    if (cptpl === 3) this.ptpl = true;
    return 0;
  }

  acquire(host: string, action: number, rtype: number, crkey: bigint, prkey: bigint): number {
    this.told = [];
    const row = this.#row(host);
    if (row === undefined || row.key !== crkey) return MODEL_CONFLICT;
    if (action === 0) {
      if (this.rtype === 0) {
        this.rtype = rtype;
        this.holder = rtype <= 4 ? host : null;
        return 0;
      }
      if (this.isHolder(host) && this.rtype === rtype) return 0;
      return MODEL_CONFLICT;
    }
    if (this.rtype === 0) {
      if (!this.#removeByKey(host, prkey)) return MODEL_CONFLICT;
    } else if (this.rtype >= 5) {
      if (prkey === 0n) {
        for (const other of [...this.rows]) {
          if (other.host === host) continue;
          this.#remove(other.host);
          this.told.push({ host: other.host, type: 1 });
        }
        this.rtype = rtype;
        this.holder = rtype <= 4 ? host : null;
      } else if (!this.#removeByKey(host, prkey)) return MODEL_CONFLICT;
    } else if (this.#row(this.holder!)!.key === prkey) {
      const before = this.rtype;
      for (const other of [...this.rows]) {
        if (other.host === host || other.key !== prkey) continue;
        this.#remove(other.host);
        this.told.push({ host: other.host, type: 1 });
      }
      this.rtype = rtype;
      this.holder = rtype <= 4 ? host : null;
      if (before !== rtype) this.#tellOthers(host, 2);
    } else if (prkey === 0n) {
      return MODEL_INVALID_FIELD;
    } else if (!this.#removeByKey(host, prkey)) return MODEL_CONFLICT;
    this.gen++;
    return 0;
  }

  /** Everybody with that key goes, whoever asks. @returns false if there is nobody */
  #removeByKey(issuer: string, key: bigint): boolean {
    const gone = this.rows.filter((row) => row.key === key).map((row) => row.host);
    for (const host of gone) {
      this.#remove(host);
      if (host !== issuer) this.told.push({ host, type: 1 });
    }
    return gone.length > 0;
  }

  release(host: string, action: number, rtype: number, crkey: bigint): number {
    this.told = [];
    const row = this.#row(host);
    if (row === undefined || row.key !== crkey) return MODEL_CONFLICT;
    if (action === 1) {
      this.#tellOthers(host, 3);
      this.#end();
      this.rows = [];
      this.gen++;
      return 0;
    }
    if (this.rtype === 0 || !this.isHolder(host)) return 0;
    if (this.rtype !== rtype) return MODEL_INVALID_FIELD;
    if (rtype >= 3) this.#tellOthers(host, 2);
    this.#end();
    return 0;
  }

  mayRead(host: string): boolean {
    if (this.rtype === 0 || this.isHolder(host)) return true;
    const registered = this.#row(host) !== undefined;
    switch (this.rtype) {
      case 2:
        return false;
      case 4:
      case 6:
        return registered;
      default:
        return true;
    }
  }

  mayWrite(host: string): boolean {
    if (this.rtype === 0 || this.isHolder(host)) return true;
    if (this.rtype === 1 || this.rtype === 2) return false;
    return this.#row(host) !== undefined;
  }

  /** The power fails and comes back. */
  powerLoss(): void {
    if (this.ptpl) return;
    this.gen = 0;
    this.#end();
    this.rows = [];
  }
}
