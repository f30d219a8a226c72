/** Plans as the server tells them, for tests. */

/** `count` segments of 16 frames after one window of key frames, each with its seam. */
export function planOf(count = 3, changes = {}) {
  const row = (name, place, first, more) => ({
    name, place, level: 1, first, last: first + 13, step: 1, count: 16, makes: 14, prompt: 0,
    seed: "5", needs: [0], content: `c-${name}`, ...more,
  });
  const numbers = [...Array(count).keys()];
  return {
    mode: "hierarchy", frames: count * 15, fps: 8, seconds: (count * 15) / 8, width: 64,
    height: 64, canvas: [64, 64], given: 0, wired: { given: [] }, total: count + 1,
    made_frames: (count + 1) * 16, prompts: ["a red circle"],
    segments: [
      row("key0", "key0", 0, { last: count * 15, step: 15, level: 0, needs: [], makes: 16 }),
      ...numbers.map((number) => row(`seg${number}`, String(number), number * 15 + 1)),
    ],
    seams: numbers.slice(1).map((number) => ({
      position: number * 15, after: number, reroll: number,
    })),
    ...changes,
  };
}

export const SEAM = { luma: 1.2, colour: 1.1, motion: 4.5, stands_still: false };
