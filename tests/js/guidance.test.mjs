import assert from "node:assert/strict";
import { test } from "node:test";

import { cfgOwner } from "../../js/guidance/owner.mjs";
import { SPAN, moved, placeOf, spanOf, strengthsAt } from "../../js/guidance/pad.mjs";
import { graphOf } from "./graphs.mjs";

test("places and strengths are each other's inverse, to a tenth", () => {
  for (let text = 0; text <= SPAN.text; text += 0.7) {
    for (let image = 0; image <= SPAN.image; image += 0.3) {
      const back = strengthsAt(placeOf({ text, image }, SPAN), SPAN);
      assert.ok(Math.abs(back.text - text) <= 0.05 + 1e-9);
      assert.ok(Math.abs(back.image - image) <= 0.05 + 1e-9);
    }
  }
});

test("outside the square is its edge; unknown is the middle", () => {
  assert.deepEqual(strengthsAt({ x: -3, y: 9 }, SPAN), { text: 0, image: SPAN.image });
  assert.deepEqual(placeOf({ text: null, image: null }, SPAN), { x: 0.5, y: 0.5 });
});

test("an axis grows to show a strength beyond it", () => {
  assert.deepEqual(spanOf({ text: 7.5, image: 1.5 }), SPAN);
  const span = spanOf({ text: 40, image: 1.5 });
  assert.deepEqual(span, { text: 50, image: SPAN.image });
  assert.equal(strengthsAt(placeOf({ text: 40, image: 1.5 }, span), span).text, 40);
});

test("arrow keys move one axis by a tenth or by one, within the widgets' range", () => {
  const at = { text: 7.5, image: 1.5 };
  assert.deepEqual(moved(at, "ArrowRight", false), { axis: "text", value: 7.6 });
  assert.deepEqual(moved(at, "ArrowDown", true), { axis: "image", value: 0.5 });
  assert.deepEqual(moved({ text: 0, image: 100 }, "ArrowLeft", true), { axis: "text", value: 0 });
  assert.deepEqual(moved({ text: 0, image: 100 }, "ArrowUp", false), { axis: "image", value: 100 });
  assert.equal(moved(at, "Enter", false), null);
  assert.equal(moved({ text: null, image: 1.5 }, "ArrowLeft", false), null);
});

const GUIDANCE = { type: "STIVGuidance", inputs: ["model:MODEL"], outputs: ["model:MODEL"] };
const SAMPLER = { type: "KSampler", inputs: ["model:MODEL", "#cfg:FLOAT"], widgets: { cfg: 8 } };
const NUMBER = { type: "PrimitiveFloat", outputs: ["FLOAT"] };

test("the cfg is the node's own, or that of the one sampler behind it", () => {
  const own = graphOf({ 1: { ...GUIDANCE, widgets: { cfg: 7 } }, 2: SAMPLER }, [
    [1, "model", 2, "model"],
  ]);
  assert.equal(cfgOwner(own.getNodeById(1)).node.id, 1);
  const other = graphOf({ 1: GUIDANCE, 2: SAMPLER }, [[1, "model", 2, "model"]]);
  assert.equal(cfgOwner(other.getNodeById(1)).node.id, 2);
});

test("nobody's cfg is touched where it is not plain whose it is", () => {
  const none = graphOf({ 1: GUIDANCE, 2: SAMPLER });
  assert.deepEqual(cfgOwner(none.getNodeById(1)), { node: null, why: "none" });
  const several = graphOf({ 1: GUIDANCE, 2: SAMPLER, 3: SAMPLER }, [
    [1, "model", 2, "model"],
    [1, "model", 3, "model"],
  ]);
  assert.deepEqual(cfgOwner(several.getNodeById(1)), { node: null, why: "several" });
  const wired = graphOf({ 1: GUIDANCE, 2: SAMPLER, 3: NUMBER }, [
    [1, "model", 2, "model"],
    [3, "FLOAT", 2, "cfg"],
  ]);
  assert.deepEqual(cfgOwner(wired.getNodeById(1)), { node: null, why: "wired" });
});
