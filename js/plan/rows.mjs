/** What the panel shows, row by row and in sum. Pure: a plan, a run and a memory go in. */

import { seamKey } from "./run.mjs";
import { seedsIn } from "./seeds.mjs";

export const SEGMENT_HEIGHT = 44;
export const PLAIN_HEIGHT = 38; // without a picture
export const SEAM_HEIGHT = 24;
/** From this on a seam shows: so many times the usual change from frame to frame. */
export const VISIBLE_SEAM = 3;

/**
 * Rows in the order of making, each with its `top` and `height` in the list.
 *
 * @param {object} plan as the server tells it
 * @param {{seeds?: string, setup?: string|null, memory?: object, run?: object|null,
 *   plain?: boolean}} [known] `plain`: the plan alone, nothing of what was made of it
 */
export function rowsOf(plan, known = {}) {
  const own = seedsIn(known.seeds ?? "");
  const height = known.plain ? PLAIN_HEIGHT : SEGMENT_HEIGHT;
  const seams = known.plain ? new Map() : seamsByRow(plan, known);
  const items = [];
  let top = 0;
  const add = (item, itsHeight) => {
    item.top = top;
    item.height = itsHeight;
    items.push(item);
    top += itsHeight;
  };
  plan.segments.forEach((segment, index) => {
    const row = known.plain ? { state: "planned" } : stateOf(segment, known);
    row.key = segment.name;
    row.kind = "segment";
    row.index = index;
    row.segment = segment;
    row.prompt = plan.prompts[segment.prompt] ?? "";
    row.locked = segment.place !== "" && own.has(segment.place);
    row.last = Math.min(segment.last, plan.frames - 1);
    add(row, height);
    for (const seam of seams.get(index) ?? []) add(seam, SEAM_HEIGHT);
  });
  return { items, height: top };
}

/** {state, progress, picture, seconds} of a segment; "unknown" where nothing was told so far. */
export function stateOf(segment, { setup, memory, run }) {
  const there = setup && memory?.segment(setup, segment.content);
  const seen = { picture: there?.picture ?? "", seconds: there?.seconds ?? null, progress: 0 };
  const now = run?.of(segment);
  if (now && (run.active || now.state !== "waiting")) return Object.assign(seen, now);
  if (there) seen.state = "kept";
  else seen.state = setup && memory?.knows(setup) ? "missing" : "unknown";
  return seen;
}

/** Numbers for the head of the panel; null is what is not known. */
export function totalsOf(plan, rows, { setup, memory, steps, cfg } = {}) {
  const segments = rows.items.filter((item) => item.kind === "segment");
  const isMissing = ({ state }) => !["kept", "made"].includes(state);
  const missing = segments.filter(isMissing);
  const sure = segments.every(({ state }) => state !== "unknown" && state !== "planned");
  const costs = (setup && memory?.costs(setup)) || { memory: null, secondsPerFrame: null };
  const frames = missing.reduce((sum, { segment }) => sum + segment.count, 0);
  const all = plan.segments.length === plan.total;
  return {
    segments: plan.total,
    kept: sure && all ? segments.length - missing.length : null,
    toMake: sure && all ? missing.length : null,
    passes: steps ? (sure && all ? missing.length : plan.total) * steps * (cfg === 1 ? 1 : 2) : null,
    seconds: sure && all && costs.secondsPerFrame !== null ? frames * costs.secondsPerFrame : null,
    memory: costs.memory,
  };
}

/** How many segments are made anew with one of them, itself left out. */
export function followers({ segments }, index) {
  const found = new Set([index]);
  for (let later = index + 1; later < segments.length; later++) {
    if (segments[later].needs.some((need) => found.has(need))) found.add(later);
  }
  return found.size - 1;
}

/** Which rows show in a part of the list: [first, one past the last]. */
export function visible(items, from, to) {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (items[middle].top + items[middle].height <= from) low = middle + 1;
    else high = middle;
  }
  let end = low;
  while (end < items.length && items[end].top < to) end++;
  return [low, end];
}

/** Of a seam: the largest ratio, and whether the eye will see it. */
export function seamScore(seam) {
  const ratios = [seam.luma, seam.colour, seam.motion].filter((ratio) => Number.isFinite(ratio));
  const worst = ratios.length ? Math.max(...ratios) : null;
  return { worst, shows: Boolean(seam.stands_still) || (worst ?? 0) >= VISIBLE_SEAM };
}

function seamsByRow(plan, { setup, memory }) {
  const found = new Map();
  if (!setup || !memory?.knows(setup)) return found;
  for (const seam of plan.seams) {
    const score = memory.seam(setup, seamKey(plan, seam));
    if (!score) continue;
    const item = { key: `seam${seam.position}`, kind: "seam", seam, score };
    const there = found.get(seam.after);
    if (there) there.push(item);
    else found.set(seam.after, [item]);
  }
  return found;
}
