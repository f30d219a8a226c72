import assert from "node:assert/strict";
import { test } from "node:test";
import { randomBytes } from "node:crypto";
import { inflateSync } from "node:zlib";

import { packed } from "../../js/plan/ask.mjs";
import { PlanSource } from "../../js/plan/source.mjs";
import { planOf } from "./plans.mjs";

/** A server that answers with the question; `asked` lists the inputs. */
function server(answer = (inputs) => ({ plan: { ...planOf(), asked: inputs } })) {
  const asked = [];
  const source = new PlanSource(async (path, { headers }) => {
    const parts = Object.keys(headers).map((_, part) => headers[`STIV-Inputs-${part}`]);
    assert.ok(parts.every((part) => part.length <= 8000));
    const inputs = unpacked(parts.join(""));
    asked.push(inputs);
    return { status: 200, json: async () => answer(inputs) };
  });
  return { source, asked };
}

function unpacked(text) {
  return JSON.parse(inflateSync(Buffer.from(text, "base64url")).toString());
}

function prompt(kind, inputs) {
  return { plan: { class_type: kind, inputs: { prompts: "a", ...inputs } } };
}

test("inputs survive the packing, whatever language they are in", async () => {
  for (const text of ["", "a red circle", "一个红色的圆", "\u{1f600} \\ \" \n", "\ud800"]) {
    assert.deepEqual(unpacked(await packed({ text })), JSON.parse(JSON.stringify({ text })));
  }
  assert.match(await packed({ text: "x".repeat(5000) + Math.PI }), /^[\w-]+$/);
});

test("a plan of plain values is asked for, once", async () => {
  const { source, asked } = server();
  const graph = prompt("STIVLongVideoPlan", { seed: 3 });
  const { plan, note } = await source.find(graph, "plan");
  assert.deepEqual(plan.asked, { prompts: "a", seed: 3 });
  assert.equal(note, undefined);
  await source.find(graph, "plan");
  assert.equal(asked.length, 1);
});

test("a value that comes by wire is not guessed", async () => {
  const { source, asked } = server();
  const graph = prompt("STIVLongVideoPlan", { seed: ["other", 0] });
  const found = await source.find(graph, "plan");
  assert.equal(found.plan, null);
  assert.deepEqual([found.note, found.values], ["plan.wired", { names: "seed" }]);
  assert.equal(asked.length, 0);
  source.told({ node: "plan", plan: planOf(5), prompt: graph });
  assert.equal((await source.find(graph, "plan")).plan.segments.length, 6);
});

test("pictures: without them until a run told where they go", async () => {
  const { source } = server();
  const graph = (seed) => prompt("STIVLongVideoPlan", { seed, stiv_frames: ["place", 0] });
  const before = await source.find(graph(1), "plan");
  assert.equal(before.note, "plan.pictures");
  assert.deepEqual(before.plan.asked, { prompts: "a", seed: 1 });
  source.told({ node: "plan", plan: planOf(3, { wired: { given: [[0, 2]] } }), prompt: graph(1) });
  const after = await source.find(graph(2), "plan");
  assert.equal(after.note, undefined);
  assert.deepEqual(after.plan.asked, { prompts: "a", seed: 2, given: [[0, 2]] });
  source.told({ node: "plan", plan: planOf(3, { wired: { given: null } }), prompt: graph(1) });
  assert.equal((await source.find(graph(2), "plan")).note, "plan.pictures"); // too many to know
});

test("a clip: its length and rate come from a run", async () => {
  const { source, asked } = server();
  const clip = { clip: ["video", 0] };
  const twice = (window) => prompt("STIVInterpolationPlan", { ...clip, factor: "2", window });
  assert.deepEqual(await source.find(twice(8), "plan"), { plan: null, note: "plan.clip" });
  assert.equal(asked.length, 0);
  const wired = { frames_in: 9, fps: 12, width: 32, height: 16 };
  source.told({ node: "plan", plan: planOf(3, { wired }), prompt: twice(8) });
  const { plan } = await source.find(twice(16), "plan");
  assert.deepEqual(plan.asked, { prompts: "a", factor: "2", window: 16, ...wired });

  const on = (seed) => prompt("STIVPredictionPlan", { ...clip, fps: 8, seed });
  assert.equal((await source.find(on(1), "plan")).note, "plan.clip_given");
  const told = planOf(3, { fps: 25, wired: { given: [[0, 3]] } });
  const maker = { class_type: "STIVLongVideo", inputs: { plan: ["plan", 0] } };
  source.toldByMaker({ node: "make", plan: told, prompt: { ...on(1), make: maker } });
  const next = await source.find(on(2), "plan");
  assert.deepEqual(next.plan.asked, { prompts: "a", fps: 25, seed: 2, given: [[0, 3]] });
});

test("an interpolation without a clip is not asked for", async () => {
  const { source, asked } = server();
  const found = await source.find(prompt("STIVInterpolationPlan", { factor: "2" }), "plan");
  assert.deepEqual([found.plan, found.note, asked.length], [null, "plan.no_clip", 0]);
});

test("why there is no plan", async () => {
  const refusing = server(() => ({ error: "stride is 0" })).source;
  const refused = await refusing.find(prompt("STIVLongVideoPlan"), "plan");
  assert.deepEqual(refused, { plan: null, text: "stride is 0", isError: true });

  const away = new PlanSource(async () => { throw new Error("no network"); });
  const lost = await away.find(prompt("STIVLongVideoPlan"), "plan");
  assert.deepEqual([lost.note, lost.values.why], ["plan.failed", "no network"]);

});

test("long prompts travel in parts, up to a limit", async () => {
  const noise = (bytes) => randomBytes(bytes).toString("base64");
  const { source, asked } = server();
  const find = (prompts) => source.find(prompt("STIVLongVideoPlan", { prompts }), "plan");
  const long = noise(20_000);
  assert.equal((await find(long)).plan.asked.prompts, long);
  assert.equal((await find(noise(60_000))).note, "plan.too_long");
  assert.equal((await find("x".repeat(500_000))).note, "plan.too_long");
  assert.equal(asked.length, 1);
});
