import assert from "node:assert/strict";
import { test } from "node:test";

import { duration, ratio, short, size } from "../../js/plan/format.mjs";
import { followers, rowsOf, seamScore, totalsOf, visible } from "../../js/plan/rows.mjs";
import { SEAM, planOf } from "./plans.mjs";

test("rows follow each other without a gap, with their seeds and prompts", () => {
  const rows = rowsOf(planOf(), { seeds: "1: 7\nkey: 2", plain: true });
  assert.deepEqual(rows.items.map(({ key }) => key), ["key0", "seg0", "seg1", "seg2"]);
  assert.deepEqual(rows.items.map(({ locked }) => locked), [true, false, true, false]);
  assert.equal(rows.items[0].last, 44); // the closing key frame is not shown
  assert.ok(rows.items.every((row, at) => !at || row.top === rows.items[at - 1].top + row.height));
  assert.equal(rows.height, rows.items.at(-1).top + rows.items.at(-1).height);
  assert.equal(rows.items[1].prompt, "a red circle");
});

test("what shows of a long list", () => {
  const { items, height } = rowsOf(planOf(500), { plain: true });
  assert.deepEqual(visible(items, 0, 0), [0, 0]);
  assert.deepEqual(visible(items, 0, 1), [0, 1]);
  const row = items[0].height;
  assert.deepEqual(visible(items, row, 3 * row), [1, 3]);
  assert.deepEqual(visible(items, row - 1, 3 * row + 1), [0, 4]);
  assert.deepEqual(visible(items, height - 1, height + 500), [500, 501]);
  assert.deepEqual(visible(items, height, height + 500), [501, 501]);
  assert.deepEqual(visible([], 0, 100), [0, 0]);
});

test("what is made anew with a segment", () => {
  const needing = (...needs) => ({ segments: needs.map((each) => ({ needs: each })) });
  const counts = (plan) => plan.segments.map((_, index) => followers(plan, index));
  assert.deepEqual(counts(planOf()), [3, 0, 0, 0]);
  assert.deepEqual(counts(needing([], [0], [1], [2])), [3, 2, 1, 0]);
  assert.deepEqual(counts(needing([], [], [], [])), [0, 0, 0, 0]);
  assert.deepEqual(counts(needing([], [0], [1], [0])), [3, 1, 0, 0]);
  assert.deepEqual(counts(needing([], [], [0, 1], [1])), [1, 2, 0, 0]);
});

test("sums say nothing that is not known", () => {
  const plan = planOf();
  const rows = rowsOf(plan, { setup: "s", memory: undefined });
  const totals = totalsOf(plan, rows, { steps: 10, cfg: 4 });
  assert.deepEqual(totals, {
    segments: 4, kept: null, toMake: null, passes: 80, seconds: null, memory: null,
  });
  const cut = planOf(3, { total: 9000 });
  assert.equal(totalsOf(cut, rowsOf(cut), {}).toMake, null);
});

test("a seam shows from a certain change on", () => {
  assert.deepEqual(seamScore(SEAM), { worst: 4.5, shows: true });
  assert.deepEqual(seamScore({ luma: 1, colour: null, motion: 2.9 }), { worst: 2.9, shows: false });
  assert.deepEqual(seamScore({ luma: 1, colour: 1, motion: 1, stands_still: true }).shows, true);
  assert.deepEqual(seamScore({ luma: null, colour: null, motion: null }).worst, null);
});

test("numbers as people read them", () => {
  assert.deepEqual([0.044, 8.26, 64.4, 600, 9000].map(duration), ["0.044 s", "8.3 s", "64 s", "10 min", "2.5 h"]);
  assert.deepEqual([1e3, 35e6, 1.24e9, 24.16e9].map(size), ["1 MB", "35 MB", "1.2 GB", "24.2 GB"]);
  assert.deepEqual([1.26, 12.4, null, NaN].map(ratio), ["1.3", "12", "?", "?"]);
  assert.equal(short(9.375), "9.38");
});
