/** Whose widget holds the strength of the prompt. */

import { downstream } from "../lib/links.mjs";
import { isWired } from "../lib/nodes.mjs";

/**
 * The node with the cfg that steers this node's guidance: itself, or the one sampler that its
 * model reaches.
 *
 * @param {object} node STIV Guidance or STIV Guider
 * @returns {{node: ?object, why: ?string}} no node with a reason: "none", "several", "wired"
 */
export function cfgOwner(node) {
  const samplers = hasCfg(node)
    ? [node]
    : downstream(node, "MODEL")
        .map((reached) => reached.node)
        .filter(hasCfg);
  if (samplers.length !== 1) return { node: null, why: samplers.length ? "several" : "none" };
  const [owner] = samplers;
  return isWired(owner, "cfg") ? { node: null, why: "wired" } : { node: owner, why: null };
}

function hasCfg(node) {
  return Boolean(node.widgets?.some((each) => each.name === "cfg" && typeof each.value === "number"));
}
