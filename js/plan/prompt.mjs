/**
 * Reading a prompt in API format, as the front end sends it and as a run tells it back: which plan
 * a node makes, what of it is known before a run, and whether two prompts say the same.
 */

export const MAKER = "STIVLongVideo";
export const PLANNERS = ["STIVLongVideoPlan", "STIVPredictionPlan", "STIVInterpolationPlan"];

/** Inputs that pictures and clips come by; everything else of a plan node is a plain value. */
const PICTURES = ["stiv_frames", "clip"];
/** What decides how a segment comes out, besides the plan. */
const SAMPLING = ["model", "clip", "vae", "negative", "steps", "cfg", "sampler_name", "scheduler"];

/** Whether an input's value is a wire: [node id, output]. */
export function isLink(value) {
  return Array.isArray(value) && value.length === 2 && typeof value[0] === "string";
}

/** Where STIV Long Video takes its plan from: the id of a plan node, null for any other node or
 * none. */
export function plannerOf(prompt, makerId) {
  const link = prompt[makerId]?.inputs?.plan;
  const id = isLink(link) ? link[0] : null;
  return PLANNERS.includes(prompt[id]?.class_type) ? id : null;
}

/**
 * The inputs of a plan node, apart: plain values, the names of values that come by a wire, and
 * whether pictures or a clip are connected.
 *
 * @returns {{values: object, wired: string[], pictures: string[]}}
 */
export function planInputs(prompt, id) {
  const values = {};
  const wired = [];
  const pictures = [];
  for (const [name, value] of Object.entries(prompt[id]?.inputs ?? {})) {
    if (PICTURES.includes(name)) pictures.push(name);
    else if (isLink(value)) wired.push(name);
    else values[name] = value;
  }
  return { values, wired, pictures };
}

/** Tells apart what pictures and clips are connected to a plan node. */
export function picturesOf(prompt, id) {
  return digest(told(prompt, pick(prompt[id], PICTURES)));
}

/** Tells apart everything that a plan node is given. */
export function planOf(prompt, id) {
  return digest(told(prompt, prompt[id]?.inputs ?? {}));
}

/** Tells apart everything that decides how the segments of a plan come out: two runs with the same
 * setup and plan make the same. Null where nothing is known of the plan. */
export function setupOf(prompt, makerId) {
  const planner = plannerOf(prompt, makerId);
  if (!planner) return null;
  const parts = [pick(prompt[makerId], SAMPLING), pick(prompt[planner], PICTURES)];
  return digest(parts.map((inputs) => told(prompt, inputs)).join("\n"));
}

/** The nodes of a prompt that some nodes depend on, and themselves, by id. */
export function upstream(prompt, ids) {
  const found = {};
  const waiting = [...ids];
  while (waiting.length) {
    const id = waiting.pop();
    if (id in found || !prompt[id]) continue;
    found[id] = prompt[id];
    for (const value of Object.values(prompt[id].inputs ?? {})) {
      if (isLink(value)) waiting.push(value[0]);
    }
  }
  return found;
}

/** What a dry run of one STIV Long Video is queued as: the nodes it needs, and one to ask for its
 * report. `number`: another one makes the host ask anew, though nothing was changed. */
export function dryRun(prompt, makerId, number) {
  const nodes = upstream(prompt, [makerId]);
  const { inputs, ...rest } = nodes[makerId];
  return {
    ...nodes,
    [makerId]: { ...rest, inputs: { ...inputs, dry_run: true, check: number } },
    [`${makerId}_check`]: { class_type: "PreviewAny", inputs: { source: [makerId, 2] } },
  };
}

function pick(node, names) {
  const inputs = node?.inputs ?? {};
  return Object.fromEntries(names.filter((name) => name in inputs).map((n) => [n, inputs[n]]));
}

/** Inputs as text, wires followed to their ends; node ids do not count. */
function told(prompt, inputs) {
  const ids = [];
  const numbers = new Map();
  const number = (id) => {
    if (!numbers.has(id)) numbers.set(id, ids.push(id) - 1);
    return numbers.get(id);
  };
  const table = (entries) =>
    Object.entries(entries ?? {})
      .sort(([one], [other]) => (one < other ? -1 : 1))
      .map(([name, value]) => [name, isLink(value) ? [number(value[0]), value[1]] : { value }]);
  const first = table(inputs);
  const nodes = [];
  for (let at = 0; at < ids.length; at++) {
    const node = prompt[ids[at]];
    nodes.push([node?.class_type ?? null, table(node?.inputs)]);
  }
  return JSON.stringify([first, nodes]);
}

/** A text made short, by FNV-1a over its characters: enough to tell apart what one browser sees. */
function digest(text) {
  let one = 0x811c9dc5;
  let two = 0x01000193;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    one = Math.imul(one ^ code, 0x01000193);
    two = Math.imul(two ^ (code + at), 0x01000193);
  }
  return [one, two, text.length].map((number) => (number >>> 0).toString(36)).join("-");
}
