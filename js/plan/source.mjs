/**
 * What the panel knows of a plan before a run: asked of the server, or told by an earlier run for
 * what depends on pictures and clips. Nothing is guessed: what is not known is said.
 */

import { askForPlan } from "./ask.mjs";
import { PLANNERS, picturesOf, planInputs, planOf, plannerOf } from "./prompt.mjs";

const [, PREDICTION, INTERPOLATION] = PLANNERS;
const MAX_REMEMBERED = 50;

export class PlanSource {
  #plans = new Map(); // by all that a plan node was given
  #pictures = new Map(); // what a plan node learned from pictures, by what is connected
  #answers = new Map();

  /** @param {(path: string, options: object) => Promise<Response>} fetchApi the host's */
  constructor(fetchApi) {
    this.fetchApi = fetchApi;
  }

  /** A run told of a plan node's plan. */
  told({ node, plan, prompt }) {
    if (!prompt) return;
    put(this.#plans, planOf(prompt, node), plan);
    put(this.#pictures, picturesOf(prompt, node), plan);
  }

  /** A run of STIV Long Video told of its plan. */
  toldByMaker({ node, plan, prompt }) {
    const planner = prompt && plannerOf(prompt, node);
    if (planner) this.told({ node: planner, plan, prompt });
  }

  /**
   * The plan of a plan node in a prompt, and what is to be said of it.
   *
   * @returns {Promise<{plan: object|null, note?: string, values?: object, isError?: boolean}>}
   *   note: a key of the words
   */
  async find(prompt, id) {
    const kind = prompt[id].class_type;
    const { values, wired, pictures } = planInputs(prompt, id);
    const known = this.#plans.get(planOf(prompt, id));
    if (known) return { plan: known };
    if (wired.length) return { plan: null, note: "plan.wired", values: { names: wired.join(", ") } };
    const seen = pictures.length ? this.#pictures.get(picturesOf(prompt, id)) : null;
    const unseen = pictures.length > 0 && !(seen && replans(kind, seen));
    if (kind === INTERPOLATION && !pictures.length) return { plan: null, note: "plan.no_clip" };
    if (kind === INTERPOLATION && unseen) return { plan: null, note: "plan.clip" };
    const learned = unseen ? {} : learnedFrom(kind, seen, pictures);
    const found = await this.#ask(kind, { ...values, ...learned });
    if (!found.plan || !unseen) return found;
    return { ...found, note: pictures.includes("clip") ? "plan.clip_given" : "plan.pictures" };
  }

  async #ask(kind, inputs) {
    const key = JSON.stringify([kind, inputs]);
    if (this.#answers.has(key)) return this.#answers.get(key);
    let found;
    try {
      found = await askForPlan(this.fetchApi, kind, inputs);
    } catch (error) {
      return { plan: null, note: "plan.failed", values: { why: error.message }, isError: true };
    }
    if (found.tooLong) return { plan: null, note: "plan.too_long" };
    const answer = found.plan
      ? { plan: found.plan }
      : { plan: null, text: found.error, isError: true };
    put(this.#answers, key, answer);
    return answer;
  }
}

/** Whether a plan can be made again from what an earlier one tells of pictures. */
function replans(kind, plan) {
  return kind === INTERPOLATION || Array.isArray(plan.wired.given);
}

function learnedFrom(kind, plan, pictures) {
  if (!plan) return {};
  const isVideo = kind === PREDICTION && pictures.includes("clip");
  return isVideo ? { ...plan.wired, fps: plan.fps } : plan.wired;
}

function put(map, key, value) {
  map.delete(key);
  map.set(key, value);
  if (map.size > MAX_REMEMBERED) map.delete(map.keys().next().value);
}
