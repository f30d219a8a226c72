import assert from "node:assert/strict";
import { test } from "node:test";

import { asksOf } from "../../js/card/asks.mjs";
import { doubts, spans } from "../../js/card/doubts.mjs";
import { byTask, count } from "../../js/card/summary.mjs";
import { positionsOf, tasksOf } from "../../js/card/tasks.mjs";
import { graphOf } from "./graphs.mjs";

test("positions are read as the node reads them", () => {
  assert.deepEqual(positionsOf("first,last", 8), [0, 7]);
  assert.deepEqual(positionsOf("0-3, -1", 8), [0, 1, 2, 3, 7]);
  assert.deepEqual(positionsOf("Every 2 from 1", 6), [1, 3, 5]);
  for (const bad of ["", "8", "3-1", "every 0", "-9", "0 and 1", "0-1000000000"]) {
    assert.equal(positionsOf(bad, 8), null, bad);
  }
});

test("given frames are tasks", () => {
  assert.deepEqual(tasksOf([], 1), ["t2i"]);
  assert.deepEqual(tasksOf([], 16), ["t2v"]);
  assert.deepEqual(tasksOf([0], 16), ["ti2v", "v2v", "keyframes"]);
  assert.deepEqual(tasksOf([0, 15], 16), ["first_last"]);
  assert.deepEqual(tasksOf([3, 0, 2, 1], 16), ["v2v"]);
  assert.deepEqual(tasksOf([0, 2, 4, 6], 8), ["tup"]);
  assert.deepEqual(tasksOf([0, 1], 2), ["first_last"]);
  assert.equal(tasksOf([5], 16), null);
});

const LOADER = { type: "STIVLoadCheckpoint", outputs: ["MODEL"] };
const SAMPLER = { type: "KSampler", inputs: ["model:MODEL", "latent_image:LATENT"], outputs: ["LATENT"] };
const EMPTY = {
  type: "STIVEmptyLatent",
  inputs: ["#width:INT", "#height:INT", "#frames:INT"],
  outputs: ["LATENT"],
  widgets: { width: 64, height: 80, frames: 16 },
};
const REPLACE = {
  type: "STIVFrameReplacement",
  inputs: ["latent:LATENT", "stiv_frames:STIV_FRAMES"],
  outputs: ["LATENT"],
};
const place = (positions) => ({
  type: "STIVPlaceFrames",
  inputs: ["#positions:STRING", "stiv_frames:STIV_FRAMES"],
  outputs: ["STIV_FRAMES"],
  widgets: { positions },
});
const NUMBER = { type: "PrimitiveInt", outputs: ["INT"] };

const asked = (nodes, wires) =>
  asksOf(graphOf(nodes, wires).getNodeById(1)).map(({ node, ...ask }) => [node.id, ask]);

test("a sampler on an empty latent asks for its size, from text", () => {
  const wires = [[1, "MODEL", 2, "model"], [3, "LATENT", 2, "latent_image"]];
  assert.deepEqual(asked({ 1: LOADER, 2: SAMPLER, 3: EMPTY }, wires), [
    [2, { width: 64, height: 80, frames: 16, tasks: ["t2v"] }],
  ]);
});

test("what comes by wire is not guessed", () => {
  const nodes = { 1: LOADER, 2: SAMPLER, 3: EMPTY, 4: NUMBER };
  const wires = [[1, "MODEL", 2, "model"], [3, "LATENT", 2, "latent_image"], [4, "INT", 3, "frames"]];
  assert.deepEqual(asked(nodes, wires), [[2, { width: 64, height: 80, frames: null, tasks: null }]]);
  const unknown = { ...nodes, 3: { type: "SomebodysLatents", outputs: ["LATENT"] } };
  assert.deepEqual(asked(unknown, wires.slice(0, 2)), []);
});

const REPLACED = [
  [1, "MODEL", 2, "model"],
  [4, "LATENT", 2, "latent_image"],
  [3, "LATENT", 4, "latent"],
  [5, "STIV_FRAMES", 4, "stiv_frames"],
];

test("placed frames are the task, however many nodes place them", () => {
  const nodes = { 1: LOADER, 2: SAMPLER, 3: EMPTY, 4: REPLACE, 5: place("last"), 6: place("first") };
  const [[, alone]] = asked(nodes, REPLACED);
  assert.equal(alone.tasks, null); // the last frame alone has no name
  const [[, both]] = asked(nodes, [...REPLACED, [6, "STIV_FRAMES", 5, "stiv_frames"]]);
  assert.deepEqual(both, { width: 64, height: 80, frames: 16, tasks: ["first_last"] });
});

test("a timeline places frames too; one that cannot be read tells nothing", () => {
  const timeline = (text) => ({ type: "STIVTimeline", outputs: ["STIV_FRAMES"], widgets: { timeline: text } });
  const tasks = (text) =>
    asked({ 1: LOADER, 2: SAMPLER, 3: EMPTY, 4: REPLACE, 5: timeline(text) }, REPLACED)[0][1].tasks;
  const items = [{ at: 0, file: "a.png" }, { at: "last", file: "b.png" }];
  assert.deepEqual(tasks(JSON.stringify({ version: 1, items })), ["first_last"]);
  assert.deepEqual(tasks(""), ["t2v"]);
  assert.equal(tasks("{broken"), null);
});

test("guiders lead to samplers, and a second sampler goes on with the first one's latents", () => {
  const nodes = {
    1: LOADER,
    2: { type: "STIVGuider", inputs: ["model:MODEL"], outputs: ["GUIDER"] },
    3: { type: "SamplerCustomAdvanced", inputs: ["guider:GUIDER", "latent_image:LATENT"], outputs: ["LATENT"] },
    4: EMPTY,
    5: SAMPLER,
  };
  const found = asked(nodes, [
    [1, "MODEL", 2, "model"],
    [2, "GUIDER", 3, "guider"],
    [4, "LATENT", 3, "latent_image"],
    [1, "MODEL", 5, "model"],
    [3, "LATENT", 5, "latent_image"],
  ]);
  const ask = { width: 64, height: 80, frames: 16, tasks: ["t2v"] };
  assert.deepEqual(found, [[5, ask], [3, ask]]);
});

const row = (task, side, frames) => ({ task, width: side, height: side, frames });
const CARD = {
  kind: "video",
  tasks: [row("t2v", [64, 64], [16, 16]), row("t2v", [256, 512], [8, 24]), row("ti2v", [64, 64], [16, 16])],
};
const ask = (values) => ({ width: 64, height: 64, frames: 16, tasks: ["t2v"], ...values });

test("inside the card there is no doubt, and none of what is not known", () => {
  assert.deepEqual(doubts(CARD, ask({})), []);
  assert.deepEqual(doubts(CARD, ask({ width: 320, height: 256, frames: 20 })), []);
  assert.deepEqual(doubts(CARD, ask({ width: null, height: null, frames: null, tasks: null })), []);
  assert.deepEqual(doubts(CARD, ask({ tasks: ["ti2v", "v2v"] })), []);
  assert.deepEqual(doubts({ kind: "video", tasks: [] }, ask({ width: 9999 })), []);
});

test("a task, size or length outside the card is doubted, with what was trained", () => {
  assert.deepEqual(doubts(CARD, ask({ tasks: ["first_last"] })), [
    { key: "card.no_task", values: { task: "first_last" } },
  ]);
  assert.deepEqual(doubts(CARD, ask({ frames: 40, width: 96 })), [
    { key: "card.other_width", values: { asked: 96, trained: "64, 256–512" } },
    { key: "card.other_frames", values: { asked: 40, trained: "16, 8–24" } },
  ]);
  // every number is in some row, but no row has them together
  assert.deepEqual(doubts(CARD, ask({ frames: 20 })).map(({ key }) => key), ["card.no_such_size"]);
  // nor has what a plan leaves to the run a number
  const square = (side) => ({ task: "t2v", width: [side, side], height: [side, side] });
  const card = { kind: "video", tasks: [square(64), square(128)] };
  assert.deepEqual(doubts(card, ask({ width: 64, height: 128, frames: null, tasks: null })), [
    { key: "card.no_such_size", values: { width: 64, height: 128, frames: "?" } },
  ]);
  assert.deepEqual(doubts({ kind: "image", tasks: [] }, ask({})).map(({ key }) => key), [
    "card.only_pictures",
  ]);
});

test("ranges for people", () => {
  assert.equal(spans([[64, 64], undefined, [256, 512], [64, 64]]), "64, 256–512");
});

test("tasks of one size stand together", () => {
  const range = [64, 64];
  const rows = ["t2v", "ti2v", "t2v"].map((task) => row(task, range, [16, 16]));
  assert.deepEqual(byTask([row("t2i", range, [1, 1]), ...rows, { task: "odd" }]), [
    { width: "64", height: "64", frames: "1", tasks: ["t2i"] },
    { width: "64", height: "64", frames: "16", tasks: ["t2v", "ti2v"] },
    { width: "?", height: "?", frames: "?", tasks: ["odd"] },
  ]);
});

test("numbers of parameters", () => {
  assert.deepEqual([12, 4321, 5341664, 604e6, 8.7e9].map(count), ["12", "4.3 K", "5.3 M", "604 M", "8.7 B"]);
});
