/**
 * The text of seeds, edited line by line: `7: 123` for segment 7, `key1: 5` for a window of key
 * frames. Lines that are not concerned, understood or not, stay as they are. What the text means
 * is the server's to say (stiv/prompts.py); here a line is only found again and rewritten.
 */

const LINE = /^\s*(?:(key)(\d{0,9})|(\d{1,9}))\s*:\s*(\d{1,20})\s*$/i;
const RANDOM_SEEDS = 10_000_000;

/** Places ("7", "key0") that have a seed of their own, with it as text. */
export function seedsIn(text) {
  const found = new Map();
  for (const line of lines(text)) {
    const own = read(line);
    if (own && !found.has(own.place)) found.set(own.place, own.seed);
  }
  return found;
}

/** The text with a seed for a place: its line rewritten, or one added at the end. */
export function withSeed(text, place, seed) {
  const added = `${place}: ${seed}`;
  const all = lines(text);
  const index = all.findIndex((line) => read(line)?.place === place);
  if (index >= 0) all[index] = added;
  else if (all.length && all.at(-1).trim() === "") all[all.length - 1] = added;
  else all.push(added);
  return all.join("\n");
}

/** The text without a seed for a place. */
export function withoutSeed(text, place) {
  return lines(text)
    .filter((line) => read(line)?.place !== place)
    .join("\n");
}

/** A seed to try, as text: short enough to read and to remember. */
export function randomSeed(random = Math.random) {
  return String(Math.floor(random() * RANDOM_SEEDS));
}

function lines(text) {
  return typeof text === "string" && text !== "" ? text.split("\n") : [];
}

function read(line) {
  const match = LINE.exec(line);
  if (!match) return null;
  const number = String(Number(match[2] || match[3] || 0));
  return { place: match[1] ? `key${number}` : number, seed: match[4] };
}
