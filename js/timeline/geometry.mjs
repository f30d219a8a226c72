/**
 * Where frames are on the strip. A view is what is seen of it:
 *
 * @typedef {object} View
 * @property {number} width of the strip in pixels
 * @property {number} unit pixels per frame
 * @property {number} scroll pixels that are hidden at the left
 */

export const CARD = 34; // a picture is drawn at least that wide, to be seen and grasped
export const UNIT = { most: 120, comfortable: 10 };

const EDGE = 28; // from here to an end of the strip, dragging scrolls
const LABEL = 46; // room for a number

/** Frames that the strip shows: those of the video, and those that lie beyond its end. */
export function shownFrames(frames, farthest) {
  return Math.max(frames, farthest + 1);
}

/** The view to begin with: the whole strip if its frames are wide enough then. */
export function startView(width, shown) {
  return clamped({ width, unit: Math.max(width / shown, UNIT.comfortable), scroll: 0 }, shown);
}

/** A view within its bounds: no smaller than the whole strip, no frame wider than UNIT.most. */
export function clamped({ width, unit, scroll }, shown) {
  const least = width / shown;
  const most = Math.max(least, UNIT.most);
  const wide = Math.min(Math.max(unit, least), most);
  const hidden = Math.max(0, wide * shown - width);
  return { width, unit: wide, scroll: Math.min(Math.max(scroll, 0), hidden) };
}

/** The strip made another width, showing the same frames as far as possible. */
export function resized(view, width, shown) {
  const wasWhole = isWhole(view, shown);
  return clamped({ ...view, width, unit: wasWhole ? 0 : view.unit }, shown);
}

/** Whether the whole strip is in view. */
export function isWhole(view, shown) {
  return view.unit * shown <= view.width + 0.5;
}

/** Zoomed by a factor; what is at `x` stays there. */
export function zoomed(view, factor, x, shown) {
  const bounded = clamped({ ...view, unit: view.unit * factor }, shown);
  const scroll = ((x + view.scroll) / view.unit) * bounded.unit - x;
  return clamped({ ...bounded, scroll }, shown);
}

export function scrolled(view, pixels, shown) {
  return clamped({ ...view, scroll: view.scroll + pixels }, shown);
}

/** Scrolled as little as needed to have a frame in view. */
export function showing(view, frame, shown) {
  const left = frame * view.unit;
  const right = left + view.unit;
  const scroll = Math.min(Math.max(view.scroll, right - view.width), left);
  return clamped({ ...view, scroll }, shown);
}

/** Left edge of a frame. */
export function xOf(view, frame) {
  return frame * view.unit - view.scroll;
}

/** The frame at `x`, 0 to shown - 1. */
export function frameAt(view, x, shown) {
  return Math.min(Math.max(Math.floor((x + view.scroll) / view.unit), 0), shown - 1);
}

/** First and last frame in view. */
export function visible(view, shown) {
  return [frameAt(view, 0, shown), frameAt(view, view.width, shown)];
}

/** Where a picture is drawn that goes from one frame to another, all of it: `{x, width}`. */
export function card(view, from, to, shown) {
  const width = Math.max((to - from + 1) * view.unit, CARD);
  return { x: Math.min(xOf(view, from), xOf(view, shown) - width), width };
}

/**
 * Index of the card at `x`: the one that begins nearest before it, for later cards lie on top.
 *
 * @param {{from: number, to: number}[]} cards in order
 */
export function cardAt(view, cards, x, shown) {
  for (let index = cards.length - 1; index >= 0; index--) {
    const place = card(view, cards[index].from, cards[index].to, shown);
    if (x >= place.x && x < place.x + place.width) return index;
  }
  return -1;
}

/** Frames that get a number, near enough to each other: 1, 2, 5, 10, … apart. */
export function ticks(view, shown) {
  const steps = [1, 2, 5];
  let scale = 1;
  let step = 1;
  for (let n = 0; step * view.unit < LABEL; n++) {
    if (n && n % steps.length === 0) scale *= 10;
    step = steps[n % steps.length] * scale;
  }
  const [from, to] = visible(view, shown);
  const found = [];
  for (let frame = Math.ceil(from / step) * step; frame <= to; frame += step) found.push(frame);
  return { step, frames: found };
}

/** Pixels to scroll by while something is dragged at `x`; more, the nearer to an end. */
export function dragScroll(view, x) {
  if (x < EDGE) return -Math.min(EDGE - x, EDGE) / 2;
  if (x > view.width - EDGE) return Math.min(x - view.width + EDGE, EDGE) / 2;
  return 0;
}

/** The part in view on an overview of the whole strip, `{x, width}`. */
export function overview(view, shown) {
  const scale = view.width / (view.unit * shown);
  return { x: view.scroll * scale, width: view.width * scale };
}

/** The view with its middle at `x` of the overview. */
export function overviewAt(view, x, shown) {
  const middle = (x / view.width) * view.unit * shown;
  return clamped({ ...view, scroll: middle - view.width / 2 }, shown);
}
