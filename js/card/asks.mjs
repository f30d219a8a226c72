/** What a graph asks of a model, as far as its widgets tell before a run. */

import { downstream, inputOf, sourceOf } from "../lib/links.mjs";
import { isWired, widgetOf } from "../lib/nodes.mjs";
import { read, taken } from "../timeline/state.mjs";
import { positionsOf, tasksOf } from "./tasks.mjs";

const PLANS = ["STIVLongVideoPlan", "STIVPredictionPlan"];
const DEEPEST = 100; // nodes in a chain

/**
 * @typedef {object} Ask null stands for what only the run will know
 * @property {object} node the sampler
 * @property {?string[]} tasks what it may be, as in a card
 * @property {?number} width in pixels
 * @property {?number} height in pixels
 * @property {?number} frames
 */

/**
 * One ask for every sampler that a loader's model reaches and whose latents are understood.
 *
 * @param {object} loader
 * @returns {Ask[]}
 */
export function asksOf(loader) {
  return samplersOf(loader).flatMap((node) => {
    const ask = node.type === "STIVLongVideo" ? plannedBy(node) : latentsOf(node);
    return ask ? [{ node, ...ask }] : [];
  });
}

/** Nodes that sample: those that take the model and latents or a plan, or a guider of the model. */
function samplersOf(loader) {
  const reached = downstream(loader, "MODEL").map(({ node }) => node);
  const guided = reached.flatMap((node) => downstream(node, "GUIDER").map((each) => each.node));
  const takes = (node, type) => node.inputs?.some((input) => input.type === type);
  return [...new Set([...reached, ...guided])].filter(
    (node) => takes(node, "LATENT") || takes(node, "STIV_PLAN"),
  );
}

function latentsOf(node, depth = 0) {
  const input = node.inputs.find(({ type }) => type === "LATENT");
  const source = input && depth < DEEPEST ? sourceOf(node, input.name)?.node : null;
  switch (source?.type) {
    case "STIVEmptyLatent": {
      const size = sizeOf(source);
      return { ...size, tasks: size.frames === null ? null : tasksOf([], size.frames) };
    }
    case "STIVFrameReplacement": {
      const made = latentsOf(source, depth + 1);
      return made && { ...made, tasks: tasksOfGiven(source, made.frames) };
    }
    case "STIVMultiView": {
      const side = valueOf(source, "size");
      return { width: side, height: side, frames: null, tasks: ["multi_view"] };
    }
    default: // a second sampler goes on with the latents of the first
      return source?.inputs?.some(({ type }) => type === "LATENT")
        ? latentsOf(source, depth + 1)
        : null;
  }
}

function plannedBy(node) {
  const plan = sourceOf(node, "plan")?.node;
  if (!PLANS.includes(plan?.type)) return null;
  const canvas = (name) => {
    const side = valueOf(plan, name);
    return side === null ? null : Math.ceil(side / 16) * 16;
  };
  return { width: canvas("width"), height: canvas("height"), frames: null, tasks: null };
}

function sizeOf(node) {
  const [width, height, frames] = ["width", "height", "frames"].map((name) => valueOf(node, name));
  return { width, height, frames };
}

/** Tasks of the frames that a STIV Frame Replacement gives; null where a wire decides. */
function tasksOfGiven(replacement, frames) {
  const places = frames === null ? null : placesOf(replacement, frames);
  return places && tasksOf(places, frames);
}

function placesOf(node, frames) {
  const places = new Set();
  for (let depth = 0; inputOf(node, "stiv_frames")?.link != null; depth++) {
    node = depth < DEEPEST ? sourceOf(node, "stiv_frames")?.node : null;
    const placed = node ? placedBy(node, frames) : null;
    if (!placed) return null;
    for (const place of placed) places.add(place);
  }
  return places;
}

function placedBy(node, frames) {
  if (node.type === "STIVPlaceFrames") {
    const text = valueOf(node, "positions");
    return typeof text === "string" ? positionsOf(text, frames) : null;
  }
  if (node.type !== "STIVTimeline") return null;
  const text = valueOf(node, "timeline");
  if (typeof text !== "string") return null;
  const { items, problem } = read(text);
  return problem ? null : taken(items, frames);
}

/** What a widget holds; null where it comes by wire. */
function valueOf(node, name) {
  return isWired(node, name) ? null : (widgetOf(node, name)?.value ?? null);
}
