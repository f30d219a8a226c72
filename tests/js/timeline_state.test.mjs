import assert from "node:assert/strict";
import { test } from "node:test";

import * as state from "../../js/timeline/state.mjs";
import { words } from "../../js/timeline/words.mjs";

const DIGEST = "0123456789abcdef".repeat(4);
const picture = (at, more = {}) => state.item({ at, file: "stiv/cat.png", ...more });

/** Numbers that are the same in every run. */
function* numbers(seed) {
  for (let n = seed; ; n = (n * 1103515245 + 12345) % 2 ** 31) yield n;
}

function someItems(seed) {
  const draw = numbers(seed);
  const next = (most) => draw.next().value % most;
  return Array.from({ length: 1 + next(6) }, (_, n) =>
    state.item({
      at: next(5) ? next(60) : "last",
      file: `stiv/${"cat dog é 猫".split(" ")[next(4)]} (${n}).png`,
      sha256: next(2) ? DIGEST : "",
      thumb: next(2) ? "data:image/webp;base64,AAAA" : "",
    }),
  ).map((it) => (it.at === "last" ? it : { ...it, count: 1 + next(4), spacing: 1 + next(3) }));
}

test("what is written is read back, and written the same again", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const items = someItems(seed);
    const { items: read, problem } = state.read(state.write(items));
    assert.equal(problem, null);
    assert.deepEqual(read, items);
    assert.equal(state.write(read), state.write(items));
  }
});

test("the text is short: one line an item, only what is not the default, the thumbnail last", () => {
  assert.equal(state.write([]), "");
  const items = [picture(0, { thumb: "data:x", sha256: DIGEST }), picture("last")];
  const lines = state.write(items).split("\n");
  assert.equal(lines[0], '{"version":1,"items":[');
  assert.equal(lines[1], `{"at":0,"file":"stiv/cat.png","sha256":"${DIGEST}","thumb":"data:x"},`);
  assert.equal(lines[2], '{"at":"last","file":"stiv/cat.png"}');
});

test("blank text is an empty timeline", () => {
  for (const text of ["", "  \n", '{"version":1}', '{"version":1,"items":[]}']) {
    assert.deepEqual(state.read(text), { items: [], problem: null });
  }
});

const tenThousand = Object.fromEntries(Array.from({ length: 10_000 }, (_, n) => [`key${n}`, n]));
const one = (values) => JSON.stringify({ version: 1, items: [values] });
const hostile = [
  ["{", "no_json"],
  ['{"version":1,"items":[}', "no_json"],
  ["[".repeat(100_000), "no_json"],
  ["null", "no_table"],
  ["[1]", "no_table"],
  ['"text"', "no_table"],
  ["{}", "version"],
  ['{"version":2,"items":[],"tracks":[]}', "version"],
  ['{"version":"1","items":[]}', "version"],
  ['{"version":true}', "version"],
  ['{"version":1,"items":{}}', "no_list"],
  ['{"version":1,"items":null,"more":1}', "unknown_key"],
  [JSON.stringify({ version: 1, items: Array(5000).fill({ at: 0, file: "a" }) }), "no_list"],
  [JSON.stringify({ version: 1, ...tenThousand }), "unknown_key"],
  [JSON.stringify({ ...tenThousand }), "version"],
  [one(tenThousand), "unknown_item_key"],
  [one(null), "no_item"],
  [one([]), "no_item"],
  [one({ file: "a.png" }), "bad_value"],
  [one({ at: -1, file: "a.png" }), "bad_value"],
  [one({ at: 0.5, file: "a.png" }), "bad_value"],
  [one({ at: "first", file: "a.png" }), "bad_value"],
  [one({ at: 1e9, file: "a.png" }), "bad_value"],
  [one({ at: 0 }), "bad_value"],
  [one({ at: 0, file: "" }), "bad_value"],
  [one({ at: 0, file: "a\nb.png" }), "bad_value"],
  [one({ at: 0, file: "x".repeat(1025) }), "bad_value"],
  [one({ at: 0, file: ["a.png"] }), "bad_value"],
  [one({ at: 0, file: "a.png", sha256: "short" }), "bad_value"],
  [one({ at: 0, file: "a.png", sha256: DIGEST.toUpperCase() }), "bad_value"],
  [one({ at: 0, file: "a.png", thumb: "x".repeat(4097) }), "bad_value"],
  [one({ at: 0, file: "a.png", thumb: {} }), "bad_value"],
  [one({ at: 0, file: "a.png", count: 0 }), "bad_value"],
  [one({ at: 0, file: "a.png", spacing: null }), "bad_value"],
  [one({ at: 0, file: "a.png", every: 1e99 }), "bad_value"],
  [one({ at: "last", file: "a.mp4", count: 2 }), "long_last"],
  ["x".repeat(16 * 2 ** 20 + 1), "too_long"],
  [undefined, "too_long"],
  [{ version: 1 }, "too_long"],
];

for (const [text, reason] of hostile) {
  test(`refused: ${JSON.stringify(text)?.slice(0, 60)}`, () => {
    const { items, problem } = state.read(text);
    assert.deepEqual(items, []);
    assert.equal(problem.key, `timeline.${reason}`);
    assert.ok(problem.key in words);
    for (const value of Object.values(problem.values)) assert.ok(String(value).length <= 130);
    const places = [...words[problem.key].matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
    assert.deepEqual(places.filter((name) => !(name in problem.values)), []);
  });
}

test("a prototype in the text is a key like any other, and refused", () => {
  const { problem } = state.read('{"version":1,"__proto__":{"items":[]}}');
  assert.equal(problem.key, "timeline.unknown_key");
});

test("last is where the video ends, whatever its length", () => {
  assert.equal(state.first(picture("last"), 16), 15);
  assert.equal(state.first(picture("last"), 1), 0);
  const clip = picture(4, { count: 3, spacing: 5 });
  assert.deepEqual([state.first(clip, 16), state.last(clip, 16)], [4, 14]);
});

test("frames that are taken, and whether others fit between them", () => {
  const items = [picture(0), picture(4, { count: 3, spacing: 2 }), picture("last")];
  const occupied = state.taken(items, 16);
  assert.deepEqual([...occupied].sort((a, b) => a - b), [0, 4, 6, 8, 15]);
  assert.ok(!state.taken(items, 16, items[0]).has(0));
  const interleaved = picture(0, { count: 3, spacing: 2 });
  assert.ok(state.fits(interleaved, 5, occupied, 16));
  assert.ok(!state.fits(interleaved, 6, occupied, 16));
  assert.ok(!state.fits(interleaved, 12, occupied, 16), "beyond the end");
  assert.ok(!state.fits(interleaved, -1, occupied, 16));
});

test("the nearest place: free, in the video, on the grid or at its end", () => {
  const occupied = new Set([5, 6]);
  assert.equal(state.nearest(picture(0), 3, occupied, 16), 3);
  assert.equal(state.nearest(picture(0), 5, occupied, 16), 4);
  assert.equal(state.nearest(picture(0), 6, occupied, 16), 7);
  assert.equal(state.nearest(picture(0), -9, occupied, 16), 0);
  assert.equal(state.nearest(picture(0), 99, occupied, 16), 15);
  assert.equal(state.nearest(picture(0, { count: 4 }), 5, occupied, 16), 7);
  assert.equal(state.nearest(picture(0), 5, occupied, 16, 4), 4);
  assert.equal(state.nearest(picture(0), 14, occupied, 16, 4), 15, "the last is on every grid");
  assert.equal(state.nearest(picture(0, { count: 17 }), 0, new Set(), 16), null);
  assert.equal(state.nearest(picture(0), 1, new Set([0, 1]), 2), null);
});

test("a nearest place is always a place, and none is nearer", () => {
  for (let seed = 1; seed <= 60; seed++) {
    const occupied = state.taken(someItems(seed), 40);
    const it = picture(0, { count: 1 + (seed % 3), spacing: 1 + (seed % 2) });
    const end = 39 - (it.count - 1) * it.spacing;
    for (let at = -2; at < 42; at += 3) {
      const found = state.nearest(it, at, occupied, 40);
      const all = [...Array(40).keys()].filter((place) => state.fits(it, place, occupied, 40));
      const away = (place) => Math.abs(place - Math.min(Math.max(at, 0), end));
      if (found === null) assert.deepEqual(all, []);
      else assert.ok(all.includes(found) && all.every((place) => away(place) >= away(found)));
    }
  }
});

test("onward jumps over what is in the way and stops at the ends", () => {
  const occupied = new Set([3, 4]);
  assert.equal(state.onward(picture(2), 2, 1, occupied, 8), 5);
  assert.equal(state.onward(picture(5), 5, -1, occupied, 8), 2);
  assert.equal(state.onward(picture(7), 7, 1, occupied, 8), null);
  assert.equal(state.onward(picture(0), 0, -1, occupied, 8), null);
  assert.equal(state.onward(picture(2), 2, 1, occupied, 16, 4), 8);
});

test("room for a clip ends at the next picture", () => {
  assert.equal(state.room(3, new Set([8]), 16), 5);
  assert.equal(state.room(9, new Set([8]), 16), 7);
  assert.equal(state.room(8, new Set([8]), 16), 0);
});

test("changes leave what they are given as it was, so that undoing is going back", () => {
  const items = Object.freeze([picture(8), picture(2)].map(Object.freeze));
  const added = state.put(items, picture(5), 16);
  assert.deepEqual(added.map((it) => it.at), [2, 5, 8]);
  const moved = state.put(added, { ...added[1], at: 15 }, 16, added[1]);
  assert.deepEqual(moved.map((it) => it.at), [2, 8, 15]);
  assert.deepEqual(state.without(moved, moved[0]).map((it) => it.at), [8, 15]);
  assert.deepEqual(items.map((it) => it.at), [8, 2]);
});

test("the item of a frame", () => {
  const items = [picture(0), picture(4, { count: 3, spacing: 2 }), picture("last")];
  assert.equal(state.itemAt(items, 6, 16), items[1]);
  assert.equal(state.itemAt(items, 7, 16), null);
  assert.equal(state.itemAt(items, 15, 16), items[2]);
  assert.equal(state.itemAt(items, 10, 16), null);
});

test("items that share a frame, and the same item read anew", () => {
  const run = picture(4, { count: 3, spacing: 2 });
  assert.ok(state.meets(run, picture(8), 16));
  assert.ok(!state.meets(run, picture(7), 16));
  assert.ok(state.isSame(picture("last"), picture(15), 16));
  assert.ok(!state.isSame(run, picture(4, { file: "dog.png" }), 16));
});

test("what stands in the way: beyond the end, or on a frame of another; nothing is dropped", () => {
  const items = [picture(3), picture(14), picture(12, { count: 3 }), picture(20), picture("last")];
  const found = state.troubles(items, 16);
  assert.equal(found.get(items[0]), undefined);
  assert.equal(found.get(items[1]), "double");
  assert.equal(found.get(items[2]), "double");
  assert.equal(found.get(items[3]), "beyond");
  assert.equal(found.get(items[4]), undefined);
  assert.equal(state.troubles(items, 14).get(items[1]), "beyond");
  assert.equal(state.read(state.write(items)).items.length, 5);
});

test("billions of frames in a hostile timeline are not gone through", { timeout: 60_000 }, () => {
  const items = Array.from({ length: 4096 }, (_, n) => picture(n, { count: 900_000 }));
  assert.ok(state.taken(items, 1_000_000).size <= 1_000_000);
  assert.equal(state.troubles(items, 1_000_000).get(items[0]), "double");
});

test("people know a file by its name", () => {
  assert.equal(state.nameOf(picture(0)), "cat.png");
  assert.equal(state.nameOf(picture(0, { file: "dog.png" })), "dog.png");
});
