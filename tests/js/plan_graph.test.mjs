import assert from "node:assert/strict";
import { test } from "node:test";

import { pathTo, promptAround } from "../../js/plan/graph.mjs";
import { graphOf } from "./graphs.mjs";

const OUTSIDE = -10;
const BYPASSED = 4;
const MUTED = 2;

/** A loader, maybe nodes between, and a node that takes its model. */
function chain(between = {}, wires = [[1, "MODEL", 3, "model"]]) {
  return graphOf(
    {
      1: { type: "Load", outputs: ["CLIP", "MODEL"], widgets: { name: "a", list: [1, 2] } },
      3: { type: "Make", inputs: ["model:MODEL", "#steps:INT"], widgets: { steps: 20 } },
      ...between,
    },
    wires,
  );
}

function promptOf(graph, id = 3) {
  return promptAround(graph, [graph.getNodeById(id)]).prompt;
}

test("a node with its values and what it depends on", () => {
  const graph = chain({ 5: { type: "Other" } });
  graph.getNodeById(3).widgets.push({ name: "panel", value: 1, options: { serialize: false } });
  const { prompt, ids } = promptAround(graph, [graph.getNodeById(3)]);
  assert.deepEqual(prompt, {
    1: { class_type: "Load", inputs: { name: "a", list: { __value__: [1, 2] } } },
    3: { class_type: "Make", inputs: { model: ["1", 1], steps: 20 } },
  });
  assert.equal(ids.get(graph.getNodeById(3)), "3");
});

test("reroutes and bypassed nodes hand on, muted ones do not", () => {
  const wires = [[1, "MODEL", 2, "MODEL"], [2, "MODEL", 3, "model"]];
  const between = (type, more) => chain({ 2: { type, inputs: ["CLIP", "MODEL"], outputs: ["MODEL"], ...more } }, wires);
  const lora = promptOf(between("Lora"));
  assert.deepEqual(lora[3].inputs.model, ["2", 0]);
  assert.deepEqual(promptOf(between("Lora", { mode: BYPASSED }))[3].inputs.model, ["1", 1]);
  assert.deepEqual(promptOf(between("Lora", { mode: MUTED }))[3].inputs, { steps: 20 });
  const reroute = between("Reroute", { inputs: ["MODEL"] });
  reroute.getNodeById(2).isVirtualNode = true;
  assert.deepEqual(promptOf(reroute)[3].inputs.model, ["1", 1]);
});

test("a primitive node is its value, a wired value its wire", () => {
  const wires = [[1, "MODEL", 3, "model"], [2, "INT", 3, "steps"]];
  const graph = chain({ 2: { type: "PrimitiveNode", outputs: ["INT"], widgets: { value: 7 } } }, wires);
  graph.getNodeById(2).isVirtualNode = true;
  assert.equal(promptOf(graph)[3].inputs.steps, 7);
  const wired = chain({ 2: { type: "Int", outputs: ["INT"] } }, wires);
  assert.deepEqual(promptOf(wired)[3].inputs.steps, ["2", 0]);
});

test("nodes that are off, and nodes of other graphs, are left out", () => {
  const graph = chain();
  graph.getNodeById(3).mode = MUTED;
  assert.deepEqual(promptOf(graph), {});
  const [foreign] = chain().nodes;
  assert.equal(promptAround(graph, [foreign]).ids.size, 0);
});

/** A subgraph node 9 with a "Make" inside, which takes the model from outside. */
function nested(outerMode = 0) {
  const inner = graphOf({
    4: { type: "Make", inputs: ["model:MODEL", "#steps:INT"], outputs: ["VIDEO"], widgets: { steps: 20 } },
    5: { type: "Load", outputs: ["MODEL"] },
  });
  inner.links = {
    0: { origin_id: OUTSIDE, origin_slot: 0, target_id: 4, target_slot: 0 },
    1: { origin_id: OUTSIDE, origin_slot: 1, target_id: 4, target_slot: 1 },
    2: { origin_id: 4, origin_slot: 0, target_id: -20, target_slot: 0 },
    3: { origin_id: OUTSIDE, origin_slot: 0, target_id: -20, target_slot: 1 },
  };
  const [make] = inner.nodes;
  make.inputs[0].link = 0;
  make.inputs[1].link = 1;
  inner.outputs = [{ linkIds: [2] }, { linkIds: [3] }, { linkIds: [] }];
  const graph = graphOf(
    {
      1: { type: "Load", outputs: ["MODEL"] },
      9: { type: "uuid", mode: outerMode, inputs: ["model:MODEL", "#steps:INT"], outputs: ["VIDEO", "out:MODEL", "none"], widgets: { steps: 33 } },
      10: { type: "Save", inputs: ["video:VIDEO", "model:MODEL", "other:X"] },
    },
    [[1, "MODEL", 9, "model"], [9, "VIDEO", 10, "video"], [9, "out", 10, "model"], [9, "none", 10, "other"]],
  );
  Object.assign(graph.getNodeById(9), { subgraph: inner, isVirtualNode: true });
  return { graph, make };
}

test("the borders of a subgraph are crossed, both ways", () => {
  const { graph, make } = nested();
  const { prompt, ids } = promptAround(graph, [make]);
  assert.equal(ids.get(make), "9:4");
  assert.deepEqual(prompt["9:4"], { class_type: "Make", inputs: { model: ["1", 0], steps: 33 } });
  const outer = promptAround(graph, [graph.getNodeById(10)]).prompt;
  assert.deepEqual(outer[10].inputs, { video: ["9:4", 0], model: ["1", 0] });
  assert.deepEqual(outer["9:4"], prompt["9:4"]);
});

test("a subgraph that is off has nothing in the prompt", () => {
  const { graph, make } = nested(MUTED);
  assert.equal(promptAround(graph, [make]).ids.size, 0);
});

test("circles and broken wires come to an end", () => {
  const between = { 2: { type: "Reroute", inputs: ["MODEL"], outputs: ["MODEL"] } };
  const graph = chain(between, [[2, "MODEL", 2, "MODEL"], [2, "MODEL", 3, "model"]]);
  graph.getNodeById(2).isVirtualNode = true;
  assert.deepEqual(promptOf(graph)[3].inputs, { steps: 20 });
  const broken = chain();
  broken.getNodeById(3).inputs[0].link = 77;
  assert.deepEqual(promptOf(broken)[3].inputs, { steps: 20 });
  const loop = graphOf({ 1: { type: "uuid" } });
  loop.getNodeById(1).subgraph = loop;
  assert.equal(pathTo(loop, chain()), null);
});
