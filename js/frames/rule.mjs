/** The frame rule: which sizes and lengths STIV makes, what they cost, how long they play. */

/** Pixels per token: a patch of two latents, each of eight pixels. */
export const STEP = 16;
export const LIMITS = { side: [STEP, 8192], frames: [1, 4096], fps: [1, 240] };
/** Shapes to choose from, as width : height; each is offered upright as well. */
export const SHAPES = [
  [1, 1],
  [4, 3],
  [3, 2],
  [16, 9],
  [21, 9],
];
/** What the work of other sizes is compared with. */
export const REFERENCE = { width: 512, height: 512, frames: 16 };

const WIDTH = 1152; // of the XL model; others shift the ratio by little

/** Bring a number into a range; what is no number becomes its lower end. */
export function within(value, [low, high]) {
  return Math.min(high, Math.max(low, Number(value) || low));
}

/** The multiples of 16 around a side that is none: `[below, above]`; null where it is fine. */
export function sideChoices(side) {
  if (side >= STEP && side % STEP === 0) return null;
  const below = Math.max(STEP, Math.floor(side / STEP) * STEP);
  return [below, below + STEP];
}

/** The nearest side that can be made. */
export function roundSide(side) {
  return within(Math.round(side / STEP) * STEP, LIMITS.side);
}

/**
 * A size of another shape with about as many pixels. Asking again from its result, for this or
 * another shape, stays at the same number of pixels: nothing drifts.
 *
 * @returns {{width: number, height: number}}
 */
export function reshape({ width, height }, [across, down]) {
  const side = roundSide(Math.sqrt(width * height));
  const ratio = Math.max(across, down) / Math.min(across, down);
  const long = roundSide(side * Math.sqrt(ratio));
  const short = roundSide((side * side) / long);
  return across >= down ? { width: long, height: short } : { width: short, height: long };
}

/** The shape of SHAPES, upright or not, that a size has as nearly as 16 pixels allow, or null. */
export function shapeOf({ width, height }) {
  const upright = ([across, down]) => [down, across];
  const all = SHAPES.flatMap((shape) => (shape[0] === shape[1] ? [shape] : [shape, upright(shape)]));
  return (
    all.find((shape) => {
      const made = reshape({ width, height }, shape);
      return made.width === width && made.height === height;
    }) ?? null
  );
}

/** Frames that play about so many seconds; at least one. */
export function framesFor(seconds, fps) {
  return within(Math.round(seconds * fps), LIMITS.frames);
}

/** Tokens that the model works on, in all and in one frame; sides are rounded up as it does. */
export function tokens({ width, height, frames }) {
  const each = Math.ceil(width / STEP) * Math.ceil(height / STEP);
  return { each, all: each * frames };
}

/**
 * The work of one step as a multiple of another size's. Per token the matrices of a block cost
 * about 18 width² (two attentions, cross attention, feed-forward), attention itself twice the
 * tokens it sees: those of its frame, and its place in every frame.
 */
export function relativeWork(size, reference = REFERENCE) {
  return work(size) / work(reference);
}

function work(size) {
  const { each, all } = tokens(size);
  return all * (18 * WIDTH + 2 * (each + size.frames));
}

/** A positive number in three significant digits at most, without an exponent. */
export function short(value) {
  if (value >= 100) return String(Math.round(value));
  return String(Number(value.toPrecision(2)));
}
