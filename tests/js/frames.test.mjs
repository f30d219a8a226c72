import assert from "node:assert/strict";
import { test } from "node:test";

import {
  LIMITS,
  SHAPES,
  framesFor,
  relativeWork,
  reshape,
  shapeOf,
  short,
  sideChoices,
  tokens,
} from "../../js/frames/rule.mjs";

test("sides that are no multiple of 16 come with both neighbours", () => {
  assert.equal(sideChoices(64), null);
  assert.equal(sideChoices(8192), null);
  assert.deepEqual(sideChoices(100), [96, 112]);
  assert.deepEqual(sideChoices(3), [16, 32]);
});

test("every shape is made of multiples of 16 and keeps the pixels, however often it is asked", () => {
  for (let side = 16; side <= 2048; side += 16) {
    let size = { width: side, height: side };
    for (const [across, down] of [...SHAPES, ...SHAPES]) {
      for (const shape of [[across, down], [down, across]]) {
        size = reshape(size, shape);
        assert.equal(size.width % 16, 0);
        assert.equal(size.height % 16, 0);
        const wanted = shape[0] / shape[1];
        const error = Math.abs(Math.log(size.width / size.height / wanted));
        assert.ok(error <= 32 / Math.min(size.width, size.height), `${side} as ${shape}`);
      }
    }
    assert.deepEqual(reshape(size, [1, 1]), { width: side, height: side });
  }
});

test("a size says which shape it is", () => {
  assert.deepEqual(shapeOf({ width: 512, height: 512 }), [1, 1]);
  assert.deepEqual(shapeOf(reshape({ width: 512, height: 512 }, [16, 9])), [16, 9]);
  assert.deepEqual(shapeOf(reshape({ width: 512, height: 512 }, [9, 16])), [9, 16]);
  assert.equal(shapeOf({ width: 64, height: 1024 }), null);
});

test("seconds become frames, never none", () => {
  assert.equal(framesFor(2, 16), 32);
  assert.equal(framesFor(1.03, 16), 16);
  assert.equal(framesFor(0, 16), 1);
  assert.equal(framesFor(1e9, 240), LIMITS.frames[1]);
  assert.equal(framesFor(Number.NaN, 16), 1);
});

test("tokens and work of a size", () => {
  assert.deepEqual(tokens({ width: 64, height: 64, frames: 16 }), { each: 16, all: 256 });
  assert.deepEqual(tokens({ width: 100, height: 64, frames: 2 }), { each: 28, all: 56 });
  const size = { width: 512, height: 512, frames: 16 };
  assert.equal(relativeWork(size), 1);
  assert.ok(relativeWork({ ...size, frames: 32 }) > 2);
  // 4 times the tokens; each 18 · 1152 + 2 · (tokens of its frame + frames)
  const large = (4 * (20736 + 2 * (4096 + 16))) / (20736 + 2 * (1024 + 16));
  assert.equal(relativeWork({ ...size, width: 1024, height: 1024 }), large);
});

test("numbers for people", () => {
  assert.deepEqual([0.01234, 1, 2.345, 17.49, 123.4].map(short), ["0.012", "1", "2.3", "17", "123"]);
});
