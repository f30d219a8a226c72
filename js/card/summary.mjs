/** A card's tasks and numbers as people read them. */

import { spans } from "./doubts.mjs";

/** Tasks by the size and length that they were trained at: `[{size, tasks}]`, in the card's order. */
export function byTask(tasks) {
  const groups = new Map();
  for (const { task, width, height, frames } of tasks) {
    const key = JSON.stringify([width, height, frames]);
    const group = groups.get(key) ?? { width, height, frames, tasks: [] };
    if (!group.tasks.includes(task)) group.tasks.push(task);
    groups.set(key, group);
  }
  return [...groups.values()].map(({ tasks: names, ...ranges }) => ({
    width: spans([ranges.width]) || "?",
    height: spans([ranges.height]) || "?",
    frames: spans([ranges.frames]) || "?",
    tasks: names,
  }));
}

/** 5341664 as "5.3 M". */
export function count(value) {
  const [unit, letter] = [
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "K"],
  ].find(([least]) => value >= least) ?? [1, ""];
  const share = value / unit;
  const text = share >= 100 || unit === 1 ? String(Math.round(share)) : share.toFixed(1);
  return letter ? `${text} ${letter}` : text;
}
