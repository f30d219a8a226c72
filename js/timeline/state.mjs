/**
 * What lies on the timeline: reading and writing its JSON, and every change as a function from
 * items to items. Nothing here changes what it is given.
 *
 * @typedef {object} Item a picture, or some frames of a clip; see js/docs/STIVTimeline.md
 * @property {number|"last"} at where its first frame goes
 * @property {string} file path in the host's input folder
 * @property {string} sha256 of the file, "" when unknown
 * @property {string} thumb a small picture as a data URL, ""
 * @property {number} start first frame of the clip that is taken
 * @property {number} every how far apart in the clip the frames are that are taken
 * @property {number} count how many frames
 * @property {number} spacing how far apart on the timeline
 */

export const VERSION = 1;
export const LIMITS = { frames: 1_000_000, items: 4096, text: 16 * 2 ** 20, thumb: 4096, name: 1024 };
/** The numbers of an item with their smallest value, which is the default and not written. */
export const NUMBERS = { start: 0, every: 1, count: 1, spacing: 1 };

const KEYS = ["at", "file", "sha256", "thumb", ...Object.keys(NUMBERS)];
const MOST_PLACES = 2 * LIMITS.frames; // that are looked at: a hostile timeline may name billions

/**
 * Items of a timeline's text. Never throws: `problem` says what is wrong with it, as a key of the
 * words and its values, and then there are no items.
 *
 * @returns {{items: Item[], problem: {key: string, values: object} | null}}
 */
export function read(text) {
  try {
    return { items: readTimeline(text), problem: null };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return { items: [], problem: { key: error.key, values: error.values } };
  }
}

/** The text of a timeline: one item a line, in order; an empty one is empty text. */
export function write(items) {
  if (!items.length) return "";
  const lines = items.map((item) => JSON.stringify(written(item)));
  return `{"version":${VERSION},"items":[\n${lines.join(",\n")}\n]}`;
}

/** An item with all its keys. */
export function item(values) {
  return { at: 0, file: "", sha256: "", thumb: "", ...NUMBERS, ...values };
}

/** Its first frame on a timeline of `frames`. */
export function first({ at }, frames) {
  return at === "last" ? frames - 1 : at;
}

/** Its last frame on a timeline of `frames`, which may lie beyond the end. */
export function last(it, frames) {
  return first(it, frames) + (it.count - 1) * it.spacing;
}

/** Frames that are taken, those of `except` not counted. */
export function taken(items, frames, except = null) {
  const found = new Set();
  let left = MOST_PLACES;
  for (const it of items) {
    if (it === except) continue;
    const end = Math.min(last(it, frames), frames - 1);
    for (let place = first(it, frames); place <= end && left-- > 0; place += it.spacing) {
      found.add(place);
    }
  }
  return found;
}

/** Whether an item can begin at a frame: it ends in time and meets no other. */
export function fits(it, at, occupied, frames) {
  if (at < 0 || at + (it.count - 1) * it.spacing >= frames) return false;
  for (let n = 0; n < it.count; n++) if (occupied.has(at + n * it.spacing)) return false;
  return true;
}

/**
 * The frame nearest to `at` where an item can begin; null when there is none.
 *
 * @param {number} snap only multiples of it, and the last place there is
 */
export function nearest(it, at, occupied, frames, snap = 1) {
  const end = frames - 1 - (it.count - 1) * it.spacing;
  const allowed = (place) => place === end || place % snap === 0;
  const from = Math.min(Math.max(at, 0), Math.max(end, 0));
  for (let away = 0; away <= Math.max(from, end - from); away++) {
    for (const place of [from - away, from + away]) {
      if (allowed(place) && fits(it, place, occupied, frames)) return place;
    }
  }
  return null;
}

/** The next frame before (-1) or after (1) `at` where an item can begin; null when there is none. */
export function onward(it, at, direction, occupied, frames, snap = 1) {
  const end = frames - 1 - (it.count - 1) * it.spacing;
  for (let place = at + direction; place >= 0 && place <= end; place += direction) {
    const allowed = place === end || place % snap === 0;
    if (allowed && fits(it, place, occupied, frames)) return place;
  }
  return null;
}

/** How many frames of a clip have room from a frame on, up to the next item or the end. */
export function room(at, occupied, frames) {
  let free = 0;
  while (at + free < frames && !occupied.has(at + free)) free++;
  return free;
}

/** With one item more, or another in the place of `old`; in order of their frames. */
export function put(items, added, frames, old = null) {
  const others = items.filter((it) => it !== old);
  return [...others, added].sort((a, b) => first(a, frames) - first(b, frames));
}

export function without(items, removed) {
  return items.filter((it) => it !== removed);
}

/** The item that has a frame, or null. */
export function itemAt(items, frame, frames) {
  const has = (it) => {
    const away = frame - first(it, frames);
    return away >= 0 && frame <= last(it, frames) && away % it.spacing === 0;
  };
  return items.find(has) ?? null;
}

/** Whether two items are the same file at the same frame, as before and after reading anew. */
export function isSame(one, other, frames) {
  return one.file === other.file && first(one, frames) === first(other, frames);
}

/** Whether two items share a frame. */
export function meets(one, other, frames) {
  const places = taken([other], frames);
  return [...taken([one], frames)].some((place) => places.has(place));
}

/** What keeps items from being made: "beyond" the end, or "double", on a frame of another. */
export function troubles(items, frames) {
  const found = new Map();
  const owners = new Map();
  let left = MOST_PLACES;
  for (const it of items) {
    if (last(it, frames) >= frames) {
      found.set(it, "beyond");
      continue;
    }
    const end = last(it, frames);
    for (let place = first(it, frames); place <= end && left-- > 0; place += it.spacing) {
      if (owners.has(place)) found.set(it, "double").set(owners.get(place), "double");
      owners.set(place, it);
    }
  }
  return found;
}

/** The name that people know a file by. */
export function nameOf({ file }) {
  return file.split("/").at(-1);
}

class Refused extends Error {
  constructor(key, values = {}) {
    super(key);
    Object.assign(this, { key, values });
  }
}

function readTimeline(text) {
  if (typeof text !== "string" || text.length > LIMITS.text) throw new Refused("timeline.too_long");
  if (!text.trim()) return [];
  const values = parsed(text);
  if (!isTable(values)) throw new Refused("timeline.no_table");
  if (values.version !== VERSION) {
    throw new Refused("timeline.version", { version: quote(values.version), known: VERSION });
  }
  refuseOthers(values, ["version", "items"], "timeline.unknown_key");
  const items = values.items ?? [];
  if (!Array.isArray(items) || items.length > LIMITS.items) throw new Refused("timeline.no_list");
  return items.map((it, index) => readItem(it, index + 1));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Refused("timeline.no_json", { error: String(error.message).slice(0, 120) });
  }
}

function readItem(values, number) {
  if (!isTable(values)) throw new Refused("timeline.no_item", { number });
  refuseOthers(values, KEYS, "timeline.unknown_item_key", { number });
  const checks = {
    at: (value) => value === "last" || isWhole(value, 0, LIMITS.frames - 1),
    file: (value) => isText(value, LIMITS.name) && value !== "" && !/\p{C}/u.test(value),
    sha256: (value) => typeof value === "string" && /^([0-9a-f]{64})?$/.test(value),
    thumb: (value) => isText(value, LIMITS.thumb),
  };
  for (const [key, least] of Object.entries(NUMBERS)) {
    checks[key] = (value) => isWhole(value, least, LIMITS.frames);
  }
  const read = item({ at: undefined, ...values });
  for (const [key, check] of Object.entries(checks)) {
    if (!check(read[key])) {
      throw new Refused("timeline.bad_value", { number, key, value: quote(read[key]) });
    }
  }
  if (read.at === "last" && read.count > 1) throw new Refused("timeline.long_last", { number });
  return read;
}

function refuseOthers(values, known, key, more = {}) {
  const unknown = Object.keys(values).find((name) => !known.includes(name));
  if (unknown !== undefined) throw new Refused(key, { unknown: quote(unknown), ...more });
}

function written(it) {
  const defaults = item({ at: undefined });
  const kept = KEYS.filter((key) => key === "at" || it[key] !== defaults[key]);
  const ordered = kept.filter((key) => key !== "thumb");
  if (kept.includes("thumb")) ordered.push("thumb"); // last, for it is long
  return Object.fromEntries(ordered.map((key) => [key, it[key]]));
}

function isTable(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isWhole(value, least, most) {
  return Number.isInteger(value) && value >= least && value <= most;
}

function isText(value, most) {
  return typeof value === "string" && value.length <= most;
}

function quote(value) {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
