/** The guidance pad's geometry: two strengths as a place in a square, and back. */

/** What the whole square spans; an axis grows where a value lies outside. */
export const SPAN = { text: 15, image: 5 };
/** Strengths to start from. */
export const USUAL = { text: 7.5, image: 1.5 };
export const HIGHEST = 100; // of the widgets

const STEP = 0.1;
const BIG_STEP = 1;
const MOVES = {
  ArrowLeft: ["text", -1],
  ArrowRight: ["text", 1],
  ArrowDown: ["image", -1],
  ArrowUp: ["image", 1],
};

/** How far the axes go to show these strengths; null counts as the usual. */
export function spanOf(strengths) {
  const span = (axis) => Math.max(SPAN[axis], Math.ceil((strengths[axis] ?? 0) * 1.25));
  return { text: span("text"), image: span("image") };
}

/** Where strengths lie: x to the right and y upwards, both from 0 to 1; unknown ones in the middle. */
export function placeOf(strengths, span) {
  const share = (axis) =>
    typeof strengths[axis] === "number" ? clamp(strengths[axis] / span[axis], 0, 1) : 0.5;
  return { x: share("text"), y: share("image") };
}

/** The strengths at a place, rounded to a tenth. */
export function strengthsAt({ x, y }, span) {
  const at = (share, axis) => tenth(clamp(share, 0, 1) * span[axis]);
  return { text: at(x, "text"), image: at(y, "image") };
}

/**
 * What an arrow key changes: the axis and its new strength, or null for other keys.
 *
 * @param {{text: ?number, image: ?number}} strengths
 * @param {string} key as in KeyboardEvent.key
 * @param {boolean} big ten steps at once
 */
export function moved(strengths, key, big) {
  const move = MOVES[key];
  if (!move || typeof strengths[move[0]] !== "number") return null;
  const [axis, sign] = move;
  const value = strengths[axis] + sign * (big ? BIG_STEP : STEP);
  return { axis, value: tenth(clamp(value, 0, HIGHEST)) };
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

function tenth(value) {
  return Math.round(value * 10) / 10;
}
