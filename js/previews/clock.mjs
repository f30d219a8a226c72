/** Which frame of a moving preview is due, so that a new strip goes on where the last one was. */

/** The index of the frame that is due `ms` after the beginning. */
export function frameAt(ms, fps, count) {
  const frame = Math.floor((Math.max(0, ms) / 1000) * fps);
  return frame % count;
}

/** The frames in the order of playing, from the one that is due. */
export function from(frames, index) {
  return [...frames.slice(index), ...frames.slice(0, index)];
}

/** The frame to stop at: the middle one, as the first may be a given picture. */
export function still(count) {
  return Math.floor(count / 2);
}

/** A size of `width` × `height` whose longer side is at least `side`, by a whole factor. */
export function enlarged(width, height, side) {
  const factor = Math.max(1, Math.ceil(side / Math.max(width, height)));
  return [width * factor, height * factor];
}
