import assert from "node:assert/strict";
import { test } from "node:test";

import { Memory, onlyPicture } from "../../js/plan/memory.mjs";
import { Run, learn } from "../../js/plan/run.mjs";
import { rowsOf, stateOf, totalsOf } from "../../js/plan/rows.mjs";
import { SEAM, planOf } from "./plans.mjs";

const PICTURE = "data:image/jpeg;base64,AAAA";

function begin(changes = {}) {
  const memory = new Memory();
  const start = { kind: "start", run: "r", plan: planOf(), kept: null, memory: 5e6, ...changes };
  const run = new Run(start);
  learn(memory, "s", run, start);
  const tell = (event) => {
    if (event.kind === "segment") run.segment(event);
    if (event.kind === "end") run.end(event);
    learn(memory, "s", run, event);
  };
  const states = (plan = run.plan) =>
    Object.fromEntries(
      plan.segments.map((row) => [row.name, stateOf(row, { setup: "s", memory, run }).state]),
    );
  return { memory, run, tell, states };
}

test("a run from its beginning to its end", () => {
  const { memory, run, tell, states } = begin({ kept: ["key0"] });
  assert.deepEqual(states(), { key0: "kept", seg0: "waiting", seg1: "waiting", seg2: "waiting" });
  assert.equal(run.progress, 0);
  run.progressed({ "9.0.seg0": { value: 5, max: 20, state: "running" } });
  assert.equal(stateOf(run.plan.segments[1], { run }).progress, 0.25);
  tell({ kind: "segment", name: "seg0", made: true, seconds: 8 });
  tell({ kind: "pictures", pictures: { seg0: PICTURE, key0: PICTURE } });
  assert.deepEqual(states(), { key0: "kept", seg0: "made", seg1: "waiting", seg2: "waiting" });
  assert.equal(run.progress, 1 / 3);
  assert.equal(memory.segment("s", "c-seg0").picture, PICTURE);
  assert.equal(memory.costs("s").secondsPerFrame, 0.5);
  tell({ kind: "end", made: ["seg0", "seg1"], seconds: 9, seams: [{ position: 15, ...SEAM }] });
  assert.deepEqual(states(), { key0: "kept", seg0: "made", seg1: "made", seg2: "kept" });
  assert.ok(!run.active);
});

test("another seed makes that segment anew, and the old one back is kept", () => {
  const { memory, run, tell, states } = begin();
  tell({ kind: "end", made: [], seconds: 0, seams: [{ position: 15, ...SEAM }] });
  const edited = planOf();
  edited.segments[1].content = "another";
  assert.deepEqual(states(edited), { key0: "kept", seg0: "missing", seg1: "kept", seg2: "kept" });
  const known = { setup: "s", memory, run };
  const seams = (plan) => rowsOf(plan, known).items.filter(({ kind }) => kind === "seam");
  assert.equal(seams(planOf()).length, 1);
  assert.equal(seams(edited).length, 0);
  assert.deepEqual(states(planOf()).seg0, "kept");
});

test("what was told holds for its setup alone", () => {
  const { memory, tell } = begin();
  tell({ kind: "end", made: [], seconds: 0, seams: [] });
  const [row] = planOf().segments;
  assert.equal(stateOf(row, { setup: "other", memory }).state, "unknown");
  assert.equal(stateOf(row, { setup: null, memory }).state, "unknown");
  assert.equal(stateOf(row, { setup: "s", memory }).state, "kept");
});

test("a run that is stopped keeps what was finished", () => {
  const { run, tell, states } = begin({ kept: [] });
  tell({ kind: "segment", name: "key0", made: true, seconds: 1 });
  run.progressed({ "9.0.seg0": { value: 5, max: 20, state: "running" } });
  run.stop();
  assert.ok(run.stopped && !run.active);
  assert.deepEqual(states(), { key0: "made", seg0: "missing", seg1: "missing", seg2: "missing" });
});

test("progress of other nodes, of finished segments and of segments made together", () => {
  const { run, tell } = begin();
  tell({ kind: "segment", name: "seg0", made: true, seconds: 1 });
  const running = (value) => ({ value, max: 10, state: "running" });
  assert.ok(!run.progressed({ "9.0.film0": running(1), "9.0.seg0": running(1), "9.x": running(1) }));
  assert.ok(!run.progressed({ "9.0.seg1": { value: 10, max: 10, state: "finished" } }));
  assert.ok(run.progressed({ "9.0.seg1_ahead": running(5), "9.0.seg2": running(20) }));
  assert.equal(stateOf(run.plan.segments[2], { run }).progress, 0.5);
  assert.equal(stateOf(run.plan.segments[3], { run }).progress, 1);
});

test("a dry run tells what is kept, and how long the rest takes", () => {
  const memory = new Memory();
  const check = { kind: "check", run: "r", plan: planOf(), kept: ["key0"], memory: 5e6, seconds: 24 };
  learn(memory, "s", new Run(check), check);
  const plan = planOf();
  const rows = rowsOf(plan, { setup: "s", memory });
  const totals = totalsOf(plan, rows, { setup: "s", memory, steps: 10, cfg: 4 });
  const { kept, toMake, passes, seconds } = totals;
  assert.deepEqual({ kept, toMake, passes, seconds }, { kept: 1, toMake: 3, passes: 60, seconds: 24 });
  assert.equal(totalsOf(plan, rows, { setup: "s", memory, steps: 10, cfg: 1 }).passes, 30);
});

test("a memory is saved and loaded, but never grows too large", () => {
  const { memory, tell } = begin();
  tell({ kind: "pictures", pictures: { seg0: PICTURE } });
  tell({ kind: "end", made: [], seconds: 0, seams: [{ position: 15, ...SEAM }] });
  const again = Memory.load(memory.save());
  assert.deepEqual(again.segment("s", "c-seg0"), { seconds: 0, picture: PICTURE });
  assert.equal(again.costs("s").memory, 5e6);
  assert.equal(again.save(), memory.save());
  const long = `data:image/jpeg;base64,${"A".repeat(4000)}`;
  for (let number = 0; number < 5000; number++) memory.keep("s", `n${number}`, { picture: long });
  assert.ok(memory.save().length <= 2_000_000);
  assert.equal(memory.segment("s", "n0"), undefined);
  for (let number = 0; number < 20; number++) memory.keep(`setup ${number}`, "c");
  assert.ok(!memory.knows("s"));
});

test("a stored memory that is none is left out", () => {
  const odd = ["", "{", "null", "[]", '{"version":2,"setups":[]}', '{"version":1,"setups":[[1]]}',
    '{"version":1,"setups":[["s",[["c",1,"javascript:alert(1)"]],[],null]]}'];
  for (const text of odd) assert.ok(Memory.load(text) instanceof Memory, text);
  assert.equal(Memory.load(odd.at(-1)).segment("s", "c").picture, "");
});

test("only a JPEG of ours is a picture", () => {
  assert.equal(onlyPicture(PICTURE), PICTURE);
  for (const other of ["https://example.com/a.jpg", "data:image/svg+xml;base64,AA", "", undefined,
    'data:image/jpeg;base64,A" onerror="x']) {
    assert.equal(onlyPicture(other), "");
  }
});
