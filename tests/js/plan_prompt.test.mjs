import assert from "node:assert/strict";
import { test } from "node:test";

import {
  dryRun, isLink, picturesOf, planInputs, planOf, plannerOf, setupOf, upstream,
} from "../../js/plan/prompt.mjs";

function prompt(changes = {}) {
  const nodes = {
    load: { class_type: "STIVLoadCheckpoint", inputs: { ckpt_name: "a" } },
    lora: { class_type: "LoraLoader", inputs: { model: ["load", 0], strength: 1 } },
    picture: { class_type: "LoadImage", inputs: { image: "a.png" } },
    place: { class_type: "STIVPlaceFrames", inputs: { frames: ["picture", 0], positions: "0" } },
    plan: {
      class_type: "STIVLongVideoPlan",
      inputs: { prompts: "a", key_frames: 3, seed: 1, seeds: "", stiv_frames: ["place", 0] },
    },
    make: {
      class_type: "STIVLongVideo",
      inputs: {
        model: ["lora", 0], clip: ["load", 1], vae: ["load", 2], plan: ["plan", 0],
        negative: "", steps: 20, cfg: 4, sampler_name: "euler", scheduler: "simple",
        dry_run: false, images: false, crf: 18,
      },
    },
    save: { class_type: "SaveVideo", inputs: { video: ["make", 1] } },
  };
  for (const [path, value] of Object.entries(changes)) {
    const [node, input] = path.split(".");
    nodes[node].inputs[input] = value;
  }
  return nodes;
}

test("a wire is a node and an output", () => {
  assert.ok(isLink(["4", 0]));
  for (const other of ["4", 4, null, { __value__: [1, 2] }, ["4"], [4, 0], []]) {
    assert.ok(!isLink(other));
  }
});

test("the plan node of STIV Long Video, or none", () => {
  assert.equal(plannerOf(prompt(), "make"), "plan");
  assert.equal(plannerOf(prompt({ "make.plan": ["load", 0] }), "make"), null);
  assert.equal(plannerOf(prompt({ "make.plan": undefined }), "make"), null);
  assert.equal(plannerOf({}, "make"), null);
});

test("what a plan node is given, apart", () => {
  const { values, wired, pictures } = planInputs(prompt({ "plan.seed": ["load", 0] }), "plan");
  assert.deepEqual(values, { prompts: "a", key_frames: 3, seeds: "" });
  assert.deepEqual(wired, ["seed"]);
  assert.deepEqual(pictures, ["stiv_frames"]);
});

test("the setup is all that decides how segments come out, and nothing else", () => {
  const setup = setupOf(prompt(), "make");
  const same = {
    "make.dry_run": true, "make.images": true, "make.crf": 30, "plan.seed": 2, "plan.seeds": "1: 2",
    "plan.prompts": "b", "save.video": 1,
  };
  for (const [path, value] of Object.entries(same)) {
    assert.equal(setupOf(prompt({ [path]: value }), "make"), setup, path);
  }
  const others = {
    "make.cfg": 5, "make.steps": 21, "make.negative": "b", "lora.strength": 0.5,
    "load.ckpt_name": "b", "picture.image": "b.png", "place.positions": "1",
    "plan.stiv_frames": ["picture", 0], "make.model": ["load", 0], "make.vae": ["load", 0],
  };
  const found = Object.entries(others).map(([p, v]) => setupOf(prompt({ [p]: v }), "make"));
  assert.equal(new Set([setup, ...found]).size, found.length + 1);
});

test("node ids and what a run sends back do not count", () => {
  const text = JSON.stringify(prompt());
  const renamed = JSON.parse(text.replaceAll('"load"', '"12:7"').replaceAll('"picture"', '"9"'));
  assert.equal(setupOf(renamed, "make"), setupOf(prompt(), "make"));
  const part = JSON.parse(JSON.stringify(upstream(prompt(), ["make"])));
  assert.ok(!("save" in part));
  assert.equal(setupOf(part, "make"), setupOf(prompt(), "make"));
});

test("plans and their pictures are told apart", () => {
  const seeded = prompt({ "plan.seed": 2 });
  assert.equal(picturesOf(seeded, "plan"), picturesOf(prompt(), "plan"));
  assert.notEqual(planOf(seeded, "plan"), planOf(prompt(), "plan"));
  const other = prompt({ "picture.image": "b.png" });
  assert.notEqual(picturesOf(other, "plan"), picturesOf(prompt(), "plan"));
});

test("a dry run asks for what one node needs, and makes nothing", () => {
  const asked = dryRun(prompt(), "make", 7);
  assert.equal(asked.make.inputs.dry_run, true);
  assert.notDeepEqual(asked, dryRun(prompt(), "make", 8));
  assert.equal(setupOf(asked, "make"), setupOf(prompt(), "make"));
  assert.deepEqual(asked.make_check.inputs.source, ["make", 2]);
  assert.ok(!("save" in asked) && "picture" in asked);
  assert.equal(prompt().make.inputs.dry_run, false);
});

test("wires in a circle, and to nodes that are not there", () => {
  const odd = prompt({ "lora.model": ["make", 0], "make.vae": ["gone", 0] });
  assert.equal(typeof setupOf(odd, "make"), "string");
  assert.ok(!("gone" in upstream(odd, ["make"])));
});
