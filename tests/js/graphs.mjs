/** Graphs for tests, of the shape that the host's have. */

/**
 * @param {Record<number, {type: string, inputs?: string[], outputs?: string[], mode?: number,
 *   widgets?: Record<string, unknown>}>} nodes by id; sockets as "name:TYPE" or "TYPE"
 * @param {[number, string, number, string][]} wires from node, output, to node, input
 */
export function graphOf(nodes, wires = []) {
  const graph = { links: {}, getNodeById: (id) => graph.nodes.find((node) => node.id === id) };
  graph.nodes = Object.entries(nodes).map(([id, { type, inputs, outputs, mode, widgets }]) => ({
    id: Number(id),
    type,
    comfyClass: type,
    mode: mode ?? 0,
    graph,
    inputs: (inputs ?? []).map((text) => ({ ...socket(text), link: null })),
    outputs: (outputs ?? []).map((text) => ({ ...socket(text), links: [] })),
    widgets: Object.entries(widgets ?? {}).map(([name, value]) => ({ name, value })),
  }));
  wires.forEach(([from, output, to, input], id) => {
    const origin = graph.getNodeById(from);
    const target = graph.getNodeById(to);
    const origin_slot = origin.outputs.findIndex((each) => each.name === output);
    const target_slot = target.inputs.findIndex((each) => each.name === input);
    graph.links[id] = { id, origin_id: from, origin_slot, target_id: to, target_slot };
    origin.outputs[origin_slot].links.push(id);
    target.inputs[target_slot].link = id;
  });
  return graph;
}

function socket(text) {
  const [name, type] = text.includes(":") ? text.split(":") : [text, text];
  const result = { name, type };
  if (name.startsWith("#")) Object.assign(result, { name: name.slice(1), widget: { name: name.slice(1) } });
  return result;
}
