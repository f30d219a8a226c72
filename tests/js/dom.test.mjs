import assert from "node:assert/strict";
import test from "node:test";

import { onFrame } from "../../js/lib/dom.mjs";

test("drawing is asked for once per animation frame", () => {
  const queue = [];
  globalThis.requestAnimationFrame = (call) => queue.push(call);
  let drawn = 0;
  const draw = onFrame(() => drawn++);
  draw();
  draw();
  assert.equal(queue.length, 1);
  queue.shift()();
  draw();
  queue.shift()();
  assert.equal(drawn, 2);
});
