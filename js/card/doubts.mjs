/** Where what a graph asks lies outside of what a model's card says it was trained for. */

const SIDES = ["width", "height", "frames"];

/**
 * @param {object} card as /stiv/card answers
 * @param {import("./asks.mjs").Ask} ask
 * @returns {{key: string, values: object}[]} words of card/words.mjs; none where the card says
 *   nothing of tasks, as then nobody knows
 */
export function doubts(card, ask) {
  if (!card.tasks.length) {
    return card.kind === "image" && ask.frames > 1 ? [{ key: "card.only_pictures", values: {} }] : [];
  }
  const rows = ask.tasks ? card.tasks.filter(({ task }) => ask.tasks.includes(task)) : card.tasks;
  if (!rows.length) return [{ key: "card.no_task", values: { task: ask.tasks[0] } }];
  if (rows.some((row) => SIDES.every((side) => within(ask[side], row[side])))) return [];
  const outside = SIDES.filter((side) => !rows.some((row) => within(ask[side], row[side])));
  if (!outside.length) {
    const sides = SIDES.map((side) => [side, ask[side] ?? "?"]); // a wire or a plan decides
    return [{ key: "card.no_such_size", values: Object.fromEntries(sides) }];
  }
  return outside.map((side) => ({
    key: `card.other_${side}`,
    values: { asked: ask[side], trained: spans(rows.map((row) => row[side])) },
  }));
}

function within(value, range) {
  return value === null || !range || (range[0] <= value && value <= range[1]);
}

/** "64", "256–512" or "64, 256–512", each once. */
export function spans(ranges) {
  const texts = ranges.filter(Boolean).map(([low, high]) => (low === high ? `${low}` : `${low}–${high}`));
  return [...new Set(texts)].join(", ");
}
