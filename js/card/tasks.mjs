/** Which of a card's tasks some given frames are, by their positions; as in stiv/frames.py. */

const LONGEST = 10_000; // characters
const FARTHEST = 1_000_000; // frames of a video

/**
 * Positions that a text names in a video of `total` frames.
 *
 * @returns {?number[]} null where it cannot be read; the node then says why
 */
export function positionsOf(text, total) {
  if (text.length > LONGEST || total > FARTHEST) return null;
  const found = new Set();
  for (const piece of text.toLowerCase().split(",")) {
    const range = rangeOf(piece.trim(), total);
    if (!range || range.start < 0 || range.end >= total) return null;
    for (let at = range.start; at <= range.end; at += range.step) found.add(at);
  }
  return [...found];
}

function rangeOf(piece, total) {
  const one = (at) => ({ start: at, end: at, step: 1 });
  if (piece === "first") return one(0);
  if (piece === "last") return one(total - 1);
  if (/^-?\d{1,9}$/.test(piece)) return one(Number(piece) + (piece.startsWith("-") ? total : 0));
  const run = piece.match(/^(\d{1,9})\s*-\s*(\d{1,9})$/);
  if (run && Number(run[1]) <= Number(run[2])) {
    return { start: Number(run[1]), end: Number(run[2]), step: 1 };
  }
  const every = piece.match(/^every\s+([1-9]\d{0,8})(?:\s+from\s+(\d{1,9}))?$/);
  if (!every) return null;
  const [step, start] = [Number(every[1]), Number(every[2] ?? 0)];
  return start < total ? { start, end: total - 1, step } : null;
}

/**
 * Tasks that given frames may be: several where the number of pictures, which only the run knows,
 * decides between them.
 *
 * @param {Iterable<number>} positions
 * @param {number} total frames of the video
 * @returns {?string[]} null for a choice of frames that has no name
 */
export function tasksOf(positions, total) {
  const given = [...new Set(positions)].sort((a, b) => a - b);
  const is = (...wanted) => String(given) === String(wanted);
  if (!given.length) return [total === 1 ? "t2i" : "t2v"];
  // "first" with four pictures is the first four; a video of key frames is asked for by its stride
  if (is(0)) return ["ti2v", "v2v", "keyframes"];
  const named = [];
  if (is(0, total - 1)) named.push("first_last");
  if (is(...Array.from({ length: Math.ceil(total / 2) }, (_, index) => 2 * index))) {
    named.push("tup");
  }
  if (given.length < total && given.at(-1) === given.length - 1) named.push("v2v");
  return named.length ? named : null;
}
