import assert from "node:assert/strict";
import { test } from "node:test";

import { downstream, sourceOf } from "../../js/lib/links.mjs";
import { graphOf } from "./graphs.mjs";

const LOADER = { type: "STIVLoadModel", outputs: ["MODEL"] };
const LORA = { type: "LoraLoaderModelOnly", inputs: ["model:MODEL"], outputs: ["MODEL"] };
const SAMPLER = { type: "KSampler", inputs: ["model:MODEL", "latent:LATENT"], outputs: ["LATENT"] };
const LATENT = { type: "STIVEmptyLatent", outputs: ["LATENT"] };
const REROUTE = { type: "Reroute", inputs: ["in:*"], outputs: ["out:LATENT"] };

const ids = (found) => found.map(({ node }) => node.id);

test("a model reaches samplers through patches, every branch once", () => {
  const graph = graphOf({ 1: LOADER, 2: LORA, 3: SAMPLER, 4: SAMPLER }, [
    [1, "MODEL", 2, "model"],
    [2, "MODEL", 3, "model"],
    [1, "MODEL", 4, "model"],
  ]);
  assert.deepEqual(ids(downstream(graph.getNodeById(1), "MODEL")), [2, 4, 3]);
});

test("bypassed nodes hand on, muted ones lead nowhere", () => {
  const wires = [
    [1, "MODEL", 2, "model"],
    [2, "MODEL", 3, "model"],
  ];
  const bypassed = graphOf({ 1: LOADER, 2: { ...LORA, mode: 4 }, 3: SAMPLER }, wires);
  assert.deepEqual(ids(downstream(bypassed.getNodeById(1), "MODEL")), [3]);
  assert.equal(sourceOf(bypassed.getNodeById(3), "model").node.id, 1);
  const muted = graphOf({ 1: LOADER, 2: { ...LORA, mode: 2 }, 3: SAMPLER }, wires);
  assert.deepEqual(ids(downstream(muted.getNodeById(1), "MODEL")), []);
  assert.equal(sourceOf(muted.getNodeById(3), "model"), null);
});

test("a source is found behind reroutes", () => {
  const graph = graphOf({ 1: LATENT, 2: REROUTE, 3: REROUTE, 4: SAMPLER }, [
    [1, "LATENT", 2, "in"],
    [2, "out", 3, "in"],
    [3, "out", 4, "latent"],
  ]);
  assert.equal(sourceOf(graph.getNodeById(4), "latent").node.id, 1);
  assert.deepEqual(ids(downstream(graph.getNodeById(1), "LATENT")), [4]);
});

test("what cannot be told is null: nothing connected, a wire from outside, a ring", () => {
  const graph = graphOf({ 1: SAMPLER, 2: REROUTE, 3: REROUTE }, [
    [2, "out", 3, "in"],
    [3, "out", 2, "in"],
  ]);
  assert.equal(sourceOf(graph.getNodeById(1), "model"), null);
  assert.equal(sourceOf(graph.getNodeById(1), "no such input"), null);
  assert.equal(sourceOf(graph.getNodeById(2), "in"), null);
  assert.deepEqual(downstream(graph.getNodeById(2), "LATENT"), []);
  const sampler = graph.getNodeById(1);
  sampler.inputs[0].link = 99;
  graph.links[99] = { origin_id: -10, origin_slot: 0, target_id: 1, target_slot: 0 };
  assert.equal(sourceOf(sampler, "model"), null);
});
