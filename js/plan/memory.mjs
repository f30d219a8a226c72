/**
 * What runs and dry runs told of segments, by their content: which are in the store, how long they
 * took, how they look, and how the seams between them came out. Under another setup (model,
 * sampler, pictures) nothing of it holds. It is what was so when it was told; the store may have
 * lost a segment since.
 */

const MAX_SETUPS = 8;
const MAX_SEGMENTS = 2000;
const MAX_STORED = 2_000_000; // characters; a browser gives a page about five million
const VERSION = 1;

export class Memory {
  #setups = new Map();

  /** Whether anything was told under a setup. */
  knows(setup) {
    return this.#setups.has(setup);
  }

  /** {seconds, picture} of a segment that is in the store; undefined of any other. */
  segment(setup, content) {
    return this.#setups.get(setup)?.segments.get(content);
  }

  /** A segment is there; what is not told again stays as it was. */
  keep(setup, content, { seconds, picture } = {}) {
    const { segments } = this.#of(setup);
    const before = segments.get(content);
    segments.delete(content); // so that the latest are last
    segments.set(content, {
      seconds: seconds ?? before?.seconds ?? 0,
      picture: before?.picture || picture || "",
    });
    if (segments.size > MAX_SEGMENTS) segments.delete(segments.keys().next().value);
  }

  /** A segment is not there. */
  lose(setup, content) {
    this.#of(setup).segments.delete(content);
  }

  /** The score of a seam between two contents, or undefined. */
  seam(setup, key) {
    return this.#setups.get(setup)?.seams.get(key);
  }

  keepSeam(setup, key, score) {
    const { seams } = this.#of(setup);
    seams.delete(key);
    seams.set(key, score);
    if (seams.size > MAX_SEGMENTS) seams.delete(seams.keys().next().value);
  }

  /** Numbers told of a setup: memory and seconds for a frame, null where they are not known. */
  costs(setup) {
    return this.#setups.get(setup)?.costs ?? { memory: null, secondsPerFrame: null };
  }

  setCosts(setup, costs) {
    const entry = this.#of(setup);
    entry.costs = { ...this.costs(setup), ...costs };
  }

  #of(setup) {
    const entry = this.#setups.get(setup) ?? { segments: new Map(), seams: new Map() };
    this.#setups.delete(setup);
    this.#setups.set(setup, entry);
    if (this.#setups.size > MAX_SETUPS) this.#setups.delete(this.#setups.keys().next().value);
    return entry;
  }

  /** All of it as text; without pictures where that would be too long, "" where even that is. */
  save() {
    const text = this.#toText(true);
    if (text.length <= MAX_STORED) return text;
    const short = this.#toText(false);
    return short.length <= MAX_STORED ? short : "";
  }

  #toText(withPictures) {
    const setups = [...this.#setups].map(([setup, { segments, seams, costs }]) => [
      setup,
      [...segments].map(([content, { seconds, picture }]) => [
        content,
        seconds,
        withPictures ? picture : "",
      ]),
      [...seams],
      costs ?? null,
    ]);
    return JSON.stringify({ version: VERSION, setups });
  }

  /** What `save` wrote; anything else is left out without a word. */
  static load(text) {
    const memory = new Memory();
    try {
      const { version, setups } = JSON.parse(text);
      if (version !== VERSION) return memory;
      for (const [setup, segments, seams, costs] of setups) {
        for (const [content, seconds, picture] of segments) {
          memory.keep(setup, content, { seconds: Number(seconds), picture: onlyPicture(picture) });
        }
        for (const [key, score] of seams) memory.keepSeam(setup, key, score);
        if (costs) memory.setCosts(setup, costs);
      }
    } catch {
      return new Memory();
    }
    return memory;
  }
}

/** A picture only as our server sends it; "" for any other text. */
export function onlyPicture(text) {
  return /^data:image\/jpeg;base64,[A-Za-z0-9+/=]+$/.test(text ?? "") ? text : "";
}
