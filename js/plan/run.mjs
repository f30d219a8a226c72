/** A run of one STIV Long Video, as far as it was told. Pure: events go in, states come out. */

import { onlyPicture } from "./memory.mjs";

export class Run {
  /** @param {object} start the event that begins it */
  constructor(start) {
    this.id = start.run;
    this.plan = start.plan;
    this.active = true;
    this.stopped = false;
    this.states = new Map();
    this.rows = new Map(start.plan.segments.map((row) => [row.name, row]));
    for (const name of start.kept ?? []) this.#set(name, { state: "kept" });
  }

  /** {state, progress}: "kept", "made", "making", or "waiting" for what the run has not come to. */
  of(row) {
    if (this.rows.get(row.name)?.content !== row.content) return null;
    return this.states.get(row.name) ?? { state: "waiting", progress: 0 };
  }

  /** How much is done, from 0 to 1, of the frames that the run had to make. */
  get progress() {
    let done = 0;
    let all = 0;
    for (const [name, row] of this.rows) {
      const { state, progress = 0 } = this.states.get(name) ?? {};
      if (state === "kept") continue;
      all += row.count;
      done += row.count * (state === "made" ? 1 : progress);
    }
    return all ? done / all : 1;
  }

  segment({ name, made }) {
    this.#set(name, { state: made ? "made" : "kept" });
  }

  /** The host's progress of the nodes that the run consists of, by their ids. */
  progressed(nodes) {
    let changed = false;
    for (const [id, { value, max, state }] of Object.entries(nodes)) {
      const name = id.slice(id.lastIndexOf(".") + 1).replace(/_ahead$/, "");
      const before = this.states.get(name)?.state;
      const over = before === "kept" || before === "made" || state !== "running";
      if (!this.rows.has(name) || over) continue;
      const progress = max > 1 ? Math.min(1, value / max) : 0;
      this.#set(name, { state: "making", progress });
      changed = true;
    }
    return changed;
  }

  end({ made }) {
    const names = new Set(made);
    for (const name of this.rows.keys()) {
      this.#set(name, { state: names.has(name) ? "made" : "kept" });
    }
    this.active = false;
  }

  /** Over: what was not told of had nothing left to do. */
  finish() {
    if (!this.active) return;
    for (const name of this.rows.keys()) {
      if (!this.states.has(name)) this.#set(name, { state: "kept" });
    }
    this.active = false;
  }

  /** Interrupted, or failed. */
  stop() {
    if (!this.active) return;
    this.active = false;
    this.stopped = true;
    for (const [name, { state }] of this.states) {
      if (state === "making") this.states.delete(name);
    }
  }

  #set(name, state) {
    if (this.rows.has(name)) this.states.set(name, state);
  }
}

/** Put what an event says into the memory, under the setup that the run began with. */
export function learn(memory, setup, run, event) {
  if (!setup) return;
  const content = (name) => run.rows.get(name)?.content;
  if (event.kind === "start" || event.kind === "check") rememberOutlook(memory, setup, event);
  else if (event.kind === "segment" && content(event.name)) {
    memory.keep(setup, content(event.name), { seconds: event.seconds });
    if (event.made) rememberSpeed(memory, setup, run, event);
  } else if (event.kind === "pictures") {
    for (const [name, picture] of Object.entries(event.pictures)) {
      const place = content(name);
      if (place) memory.keep(setup, place, { picture: onlyPicture(picture) });
    }
  } else if (event.kind === "end") rememberEnd(memory, setup, run, event);
}

function rememberOutlook(memory, setup, { plan, kept, memory: bytes, seconds }) {
  memory.setCosts(setup, { memory: bytes });
  if (!kept) return;
  const there = new Set(kept);
  let frames = 0;
  for (const row of plan.segments) {
    if (there.has(row.name)) memory.keep(setup, row.content);
    else {
      memory.lose(setup, row.content);
      frames += row.count;
    }
  }
  if (seconds && frames) memory.setCosts(setup, { secondsPerFrame: seconds / frames });
}

function rememberSpeed(memory, setup, run, { name, seconds }) {
  const now = seconds / run.rows.get(name).count;
  const before = memory.costs(setup).secondsPerFrame;
  const secondsPerFrame = before === null ? now : (before + now) / 2;
  memory.setCosts(setup, { secondsPerFrame });
}

function rememberEnd(memory, setup, run, { seams }) {
  for (const row of run.rows.values()) memory.keep(setup, row.content);
  const scores = new Map(seams.map((seam) => [seam.position, seam]));
  for (const seam of run.plan.seams) {
    const score = scores.get(seam.position);
    if (score) memory.keepSeam(setup, seamKey(run.plan, seam), score);
  }
}

/** A seam, by its place and by what meets there. */
export function seamKey(plan, { position, after, reroll }) {
  const content = (index) => plan.segments[index]?.content ?? "";
  return `${position} ${content(after)} ${content(reroll)}`;
}
