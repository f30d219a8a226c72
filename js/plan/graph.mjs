/**
 * The part of a prompt that some nodes depend on, read off the open graph at any moment. The host's
 * own way to a prompt is for queueing: it asks every widget of the graph to serialise itself, and
 * some take pictures or upload files then.
 *
 * Reroutes, bypassed and primitive nodes, and the borders of subgraphs are followed as the host
 * does it. What a widget would only make up on queueing (a random word of `{a|b}`) is not.
 */

const MUTED = 2;
const BYPASSED = 4;
const FROM_OUTSIDE = -10; // the host's id of a subgraph's inputs
const MAX_STEPS = 1000;

/**
 * @param {object} root the outermost graph
 * @param {object[]} nodes anywhere in it; those that are muted or bypassed are left out
 * @returns {{prompt: object, ids: Map<object, string>}} the API prompt of these nodes and all that
 *   they depend on, and the nodes' ids in it
 */
export function promptAround(root, nodes) {
  const prompt = {};
  const ids = new Map();
  const waiting = [];
  for (const node of nodes) {
    const path = pathTo(root, node.graph);
    if (!path || [...path, node].some(isOff)) continue;
    ids.set(node, idOf({ node, path }));
    waiting.push({ node, path });
  }
  while (waiting.length) {
    const place = waiting.pop();
    const id = idOf(place);
    if (id in prompt) continue;
    const inputs = widgetValues(place.node);
    for (const input of place.node.inputs ?? []) {
      const source = sourceOf(place, input);
      if (!source) continue;
      inputs[input.name] = source.node ? [idOf(source), source.slot] : wrapped(source.value);
      if (source.node) waiting.push(source);
    }
    prompt[id] = { class_type: place.node.comfyClass, inputs };
  }
  return { prompt, ids };
}

/** The subgraph nodes from the outermost graph to a graph inside of it; null where it is not. */
export function pathTo(root, graph, seen = new Set()) {
  if (graph === root) return [];
  seen.add(root);
  for (const node of root?.nodes ?? []) {
    if (!node.subgraph || seen.has(node.subgraph)) continue;
    const path = pathTo(node.subgraph, graph, seen);
    if (path) return [node, ...path];
  }
  return null;
}

function idOf({ node, path }) {
  return [...path, node].map(({ id }) => id).join(":");
}

function isOff(node) {
  return node.mode === MUTED || node.mode === BYPASSED;
}

function widgetValues(node) {
  const kept = (node.widgets ?? []).filter((each) => each.name && each.options?.serialize !== false);
  return Object.fromEntries(kept.map(({ name, value }) => [name, wrapped(value)]));
}

/** Lists are wrapped in a prompt, or they would be taken for wires. */
function wrapped(value) {
  return Array.isArray(value) ? { __value__: value } : value;
}

/** Who gives an input its value: {node, path, slot}, {value}, or null for its own widget. */
function sourceOf(place, input) {
  let at = { ...place, input };
  for (let steps = 0; steps < MAX_STEPS; steps++) {
    const link = linkOf(at.node.graph, at.input?.link);
    if (!link) return null;
    if (isFromOutside(link)) {
      at = outside(at, link);
      if (at.input?.link == null) return promoted(at);
      continue;
    }
    const origin = at.node.graph.getNodeById(link.origin_id);
    const found = through({ node: origin, path: at.path, slot: link.origin_slot }, at.input.type);
    if (!found?.input) return found;
    at = found;
  }
  return null;
}

/** The input of the subgraph node that a wire comes in by. */
function outside({ path }, link) {
  const node = path.at(-1);
  return { node, path: path.slice(0, -1), input: node?.inputs?.[link.origin_slot] };
}

/** The value of a widget that a subgraph shows on its outside. */
function promoted({ node, input }) {
  const name = input?.widget?.name ?? input?.name;
  const widget = node?.widgets?.find((each) => each.name === name);
  return widget ? { value: widget.value } : null;
}

/** An output followed to who makes it; with `input`, to an input that hands its value on. */
function through({ node, path, slot }, type) {
  if (!node || node.mode === MUTED) return null;
  if (node.mode === BYPASSED) return { node, path, input: bypassing(node, slot, type) };
  if (node.subgraph) return inside({ node, path, slot }, type);
  if (node.type === "PrimitiveNode") return { value: node.widgets?.[0]?.value };
  if (!node.isVirtualNode) return { node, path, slot };
  const far = node.resolveVirtualOutput?.(slot);
  if (far) return through({ node: far.node, path, slot: far.slot }, type);
  return { node, path, input: node.inputs?.[slot] };
}

/** An output of a subgraph node, followed to the node inside. */
function inside({ node, path, slot }, type) {
  const graph = node.subgraph;
  const link = linkOf(graph, graph.outputs?.[slot]?.linkIds?.[0]);
  if (!link) return null;
  const place = [...path, node];
  if (isFromOutside(link)) {
    return { node, path, input: node.inputs?.[link.origin_slot] };
  }
  const origin = graph.getNodeById(link.origin_id);
  return through({ node: origin, path: place, slot: link.origin_slot }, type);
}

/** Which input a bypassed node hands on: the one beside the output, or the first of its type. */
function bypassing(node, slot, type) {
  const inputs = node.inputs ?? [];
  const fits = (input) => input && (input.type === type || input.type === "*" || type === "*");
  return fits(inputs[slot]) ? inputs[slot] : inputs.find(fits);
}

function isFromOutside(link) {
  return Number(link.origin_id) === FROM_OUTSIDE; // a number or a text, as the host's version is
}

function linkOf(graph, id) {
  if (id === null || id === undefined) return null;
  return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id] ?? null;
}
