/**
 * Following wires through a graph, as far as it can be told before a run. Works on the host's live
 * graph and on any objects of its shape. Reroutes and bypassed nodes hand on what they get; what
 * is muted leads nowhere; the border of a subgraph is not crossed.
 */

const MUTED = 2;
const BYPASSED = 4;

/**
 * Where a wire of one type leads: every input that gets it, directly or changed by nodes that take
 * and put out this type (LoRAs, patches).
 *
 * @param {object} node
 * @param {string} type of the sockets, for example "MODEL"
 * @returns {{node: object, input: object}[]} in the order of distance
 */
export function downstream(node, type) {
  const found = [];
  const waiting = [node];
  const seen = new Set(waiting);
  while (waiting.length) {
    for (const reached of targets(waiting.shift(), type)) {
      if (reached.node.mode === MUTED) continue;
      if (!handsOn(reached.node)) found.push(reached);
      if (seen.has(reached.node)) continue;
      seen.add(reached.node);
      waiting.push(reached.node);
    }
  }
  return found;
}

/**
 * What feeds an input: the node that made the value, past reroutes and bypassed nodes.
 *
 * @param {object} node
 * @param {string} name of the input
 * @returns {{node: object, output: object}|null} null where nothing is connected, or where it
 *   cannot be told
 */
export function sourceOf(node, name) {
  let input = inputOf(node, name);
  for (let steps = 0; steps < 1000; steps++) {
    const link = input?.link == null ? null : linkOf(node.graph, input.link);
    const origin = link && node.graph.getNodeById(link.origin_id);
    if (!origin || origin.mode === MUTED) return null;
    const output = origin.outputs?.[link.origin_slot];
    if (!handsOn(origin)) return { node: origin, output };
    input = origin.inputs?.find((each) => fits(each.type, output?.type));
    node = origin;
  }
  return null;
}

/** The input of a node by its name, or undefined. */
export function inputOf(node, name) {
  return node.inputs?.find((input) => input.name === name);
}

function targets(node, type) {
  const ids = (node.outputs ?? [])
    .filter((output) => fits(output.type, type))
    .flatMap((output) => output.links ?? []);
  return ids.flatMap((id) => {
    const link = linkOf(node.graph, id);
    const target = link && node.graph.getNodeById(link.target_id);
    const input = target?.inputs?.[link.target_slot];
    return input ? [{ node: target, input }] : [];
  });
}

function linkOf(graph, id) {
  return graph.getLink?.(id) ?? graph.links?.[id];
}

function handsOn(node) {
  return node.mode === BYPASSED || node.type === "Reroute";
}

function fits(one, other) {
  return one === other || one === "*" || other === "*";
}
