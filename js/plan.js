/** The plan panel of the long-video nodes: what will be made, before and while it is. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

import { addPanel, onValues, remember, setWidget, widgetOf } from "./lib/nodes.mjs";
import { from } from "./lib/words.mjs";
import { promptAround } from "./plan/graph.mjs";
import { Memory } from "./plan/memory.mjs";
import { MAKER, PLANNERS, dryRun, planOf, plannerOf, setupOf } from "./plan/prompt.mjs";
import { rowsOf, totalsOf } from "./plan/rows.mjs";
import { Run, learn } from "./plan/run.mjs";
import { randomSeed, withSeed, withoutSeed } from "./plan/seeds.mjs";
import { PlanSource } from "./plan/source.mjs";
import { planView } from "./plan/view.mjs";
import { words } from "./plan/words.mjs";

const say = from(words);
const STORED = "stiv.plan";
const PAUSE_MS = 250; // while somebody types
const DRAW_MS = 100; // between two drawings of a run's progress, at least
const HISTORY_MS = 500; // after a run, until the host has written it down

const panels = new Set();
const runs = new Map(); // {run, setup} by the id of STIV Long Video
const source = new PlanSource((path, options) => api.fetchApi(path, options));
const memory = Memory.load(stored());

app.registerExtension({
  name: "STIV.Plan",
  setup() {
    listen("stiv.plan", (event) => source.told(event));
    listen("stiv.long_video", told);
    listen("execution_cached", ({ prompt_id: id, nodes }) => nothingToDo(id, nodes ?? []));
    listen("progress_state", ({ prompt_id: id, nodes }) => progressed(id, nodes));
    listen("execution_success", ({ prompt_id: id }) => over(id, (run) => run.finish()));
    for (const name of ["execution_error", "execution_interrupted"]) {
      listen(name, ({ prompt_id: id }) => over(id, (run) => run.stop()));
    }
    listen("status", ({ exec_info: queue }) => queue?.queue_remaining === 0 && nothingRuns());
    api.addEventListener("graphChanged", refreshSoon);
  },
  nodeCreated(node) {
    if (node.comfyClass === MAKER || PLANNERS.includes(node.comfyClass)) new Panel(node);
  },
});

/** One node's panel. */
class Panel {
  #of = { plan: null, note: say("plan.reading") }; // what the graph says
  #looking = null;
  #checking = null;

  constructor(node) {
    this.node = node;
    this.plain = node.comfyClass !== MAKER;
    const actions = {
      lock: (item) => this.#setSeed(item.segment, item.locked ? null : item.segment.seed),
      reroll: (item) => this.#setSeed(item.segment, randomSeed()),
      check: () => this.#check(),
    };
    this.view = planView(actions, { plain: this.plain });
    addPanel(node, "stiv_plan", this.view.element, {
      minHeight: this.plain ? 170 : 230,
      minWidth: 320,
      begin: () => {
        panels.add(this);
        refreshSoon();
        return () => panels.delete(this);
      },
    });
    onValues(node, (node.widgets ?? []).map((widget) => widget.name), refreshSoon);
    this.draw();
  }

  /** The id of STIV Long Video in a prompt, if this is its panel. */
  get maker() {
    return this.plain ? null : this.#of.id;
  }

  /** See what the prompt of the open graph says of this node, and draw it. */
  async look(prompt, id) {
    const planner = id && (this.plain ? id : plannerOf(prompt, id));
    const of = { id, planner, setup: null, plan: null, note: "" };
    this.#looking = of;
    if (!id) of.note = say("plan.off");
    else if (!planner) Object.assign(of, this.#foreignPlan(prompt, id));
    else {
      const { plan, note, values, text, isError } = await source.find(prompt, planner);
      Object.assign(of, { plan, isError, note: note ? say(note, values) : (text ?? "") });
      of.setup = this.plain ? null : setupOf(prompt, id);
      of.seeds = prompt[planner].inputs.seeds;
      of.settings = prompt[id].inputs;
    }
    if (this.#looking !== of) return; // the graph has changed meanwhile
    this.#of = of;
    this.draw();
  }

  #foreignPlan(prompt, id) {
    const connected = prompt[id].inputs.plan !== undefined;
    const last = runs.get(id);
    const plan = last?.whole === planOf(prompt, id) ? last.run.plan : null;
    return { plan, note: say(connected ? "plan.other" : "plan.none") };
  }

  draw() {
    const { plan, setup, settings = {}, isError } = this.#of;
    const model = { plan, note: this.#of.note, isError, checking: this.#checking !== null };
    model.editable = typeof this.#of.seeds === "string";
    model.canCheck = Boolean(this.#of.id && settings.plan);
    if (plan) {
      const { run, setup: runSetup } = runs.get(this.#of.id) ?? {};
      const sameRun = run && runSetup === setup ? run : null;
      const known = { plain: this.plain, seeds: this.#of.seeds, setup, memory, run: sameRun };
      model.rows = rowsOf(plan, known);
      model.totals = totalsOf(plan, model.rows, { setup, memory, ...settings });
      model.run = sameRun;
      model.note ||= this.#remark(plan, sameRun, model.totals);
    }
    this.view.show(model);
  }

  #remark(plan, run, totals) {
    if (plan.segments.length < plan.total) {
      return say("plan.more", { count: plan.segments.length });
    }
    if (this.plain || run?.active) return "";
    if (run?.stopped) return say("plan.stopped");
    if (totals.toMake !== null || !plan.total) return "";
    return say(runs.has(this.#of.id) ? "plan.changed" : "plan.unknown");
  }

  #setSeed(segment, seed) {
    const node = nodeOf(this.#of.planner);
    const widget = node && widgetOf(node, "seeds");
    if (!widget) return;
    const text = String(widget.value ?? "");
    const next = seed === null ? withoutSeed(text, segment.place) : withSeed(text, segment.place, seed);
    setWidget(node, "seeds", next);
    remember(app);
    refresh();
  }

  async #check() {
    this.#checking = "asked";
    this.draw();
    try {
      const { output, workflow } = await app.graphToPrompt();
      const asked = dryRun(output, this.#of.id, crypto.getRandomValues(new Uint32Array(1))[0]);
      const answer = await api.queuePrompt(0, { output: asked, workflow });
      this.#checking = answer.prompt_id;
    } catch (error) {
      this.#checking = null;
      this.#of = { ...this.#of, note: say("plan.failed", { why: error.message }), isError: true };
    }
    this.draw();
  }

  /** A prompt is over, the dry run perhaps; without an id, all are. */
  over(promptId = this.#checking) {
    if (this.#checking === promptId) this.#checking = null;
  }
}

/** What a run of STIV Long Video tells. */
function told(event) {
  if (event.kind === "start" || event.kind === "check") {
    source.toldByMaker(event);
    const setup = event.prompt ? setupOf(event.prompt, event.node) : null;
    const run = new Run(event);
    const whole = event.prompt ? planOf(event.prompt, event.node) : null;
    if (event.kind === "start") runs.set(event.node, { run, setup, whole });
    learn(memory, setup, run, event);
    refreshSoon();
  } else {
    const { run, setup } = runs.get(event.node) ?? {};
    if (run?.id !== event.run) return;
    if (event.kind === "segment") run.segment(event);
    if (event.kind === "end") run.end(event);
    learn(memory, setup, run, event);
  }
  if (event.kind === "end" || event.kind === "check") store();
}

/** The host had the whole video of some nodes in its cache, so none of them tells anything: all of
 * its segments are there. */
function nothingToDo(promptId, cached) {
  const makers = [...panels].map((panel) => panel.maker).filter((id) => cached.includes(id));
  if (makers.length) setTimeout(() => rememberAll(promptId, makers), HISTORY_MS);
}

async function rememberAll(promptId, makers) {
  try {
    const history = await (await api.fetchApi(`/history/${promptId}`)).json();
    const { prompt, status } = history[promptId] ?? {};
    if (status?.status_str !== "success") return;
    for (const id of makers) {
      const planner = plannerOf(prompt[2], id);
      if (!planner || prompt[2][id].inputs.dry_run) continue;
      const { plan, note } = await source.find(prompt[2], planner);
      if (!plan || note) continue;
      for (const row of plan.segments) memory.keep(setupOf(prompt[2], id), row.content);
    }
    store();
    drawSoon();
  } catch (error) {
    console.warn("STIV: what the last run kept is not known:", error);
  }
}

function progressed(promptId, nodes) {
  for (const [maker, { run }] of runs) {
    if (run.id !== promptId || !run.active) continue;
    run.progressed(
      Object.fromEntries(Object.entries(nodes).filter(([, node]) => node.real_node_id === maker)),
    );
  }
}

function over(promptId, act) {
  for (const panel of panels) panel.over(promptId);
  const ours = [...runs.values()].filter(({ run }) => run.id === promptId);
  for (const { run } of ours) act(run);
  if (ours.length) store();
}

/** The queue is empty; a dry run may have been taken out of it. */
function nothingRuns() {
  for (const panel of panels) panel.over();
}

/** An event of the server, and then every panel drawn anew. */
function listen(name, act) {
  api.addEventListener(name, ({ detail }) => {
    if (!detail) return;
    try {
      act(detail);
    } catch (error) {
      console.warn(`STIV: ${name} was not understood:`, error);
    }
    drawSoon();
  });
}

let drawing = 0;
function drawSoon() {
  drawing ||= setTimeout(() => {
    drawing = 0;
    for (const panel of panels) panel.draw();
  }, DRAW_MS);
}

let timer = 0;
function refreshSoon() {
  clearTimeout(timer);
  if (panels.size) timer = setTimeout(refresh, PAUSE_MS);
}

async function refresh() {
  clearTimeout(timer);
  try {
    const shown = [...panels];
    const { prompt, ids } = promptAround(rootGraph(), shown.map(({ node }) => node));
    await Promise.all(shown.map((panel) => panel.look(prompt, ids.get(panel.node))));
  } catch (error) {
    console.warn("STIV: the plan panels could not be brought up to date:", error);
  }
}

function rootGraph() {
  return app.rootGraph ?? app.graph;
}

/** The node that an id of a prompt stands for: "7", or "3:7" for node 7 of the subgraph node 3. */
function nodeOf(id) {
  const path = String(id).split(":");
  let graph = rootGraph();
  for (const step of path.slice(0, -1)) graph = graph?.getNodeById(step)?.subgraph;
  return graph?.getNodeById(path.at(-1)) ?? null;
}

function stored() {
  try {
    return sessionStorage.getItem(STORED) ?? "";
  } catch {
    return ""; // a browser may forbid it
  }
}

function store() {
  try {
    sessionStorage.setItem(STORED, memory.save());
  } catch (error) {
    console.warn("STIV: what is known of segments lasts until the page is closed:", error);
  }
}
