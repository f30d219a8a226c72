/** The model card as elements. All that a file says becomes text. */

import { h } from "../lib/dom.mjs";
import { from } from "../lib/words.mjs";
import { byTask, count } from "./summary.mjs";
import { words } from "./words.mjs";

const MOST_DOUBTS = 5;

export const say = from(words);

/** A task in words; one that this version does not know keeps its name. */
export function taskName(task) {
  return words[`card.task_${task}`] ? say(`card.task_${task}`) : task;
}

/** @param {object} card as /stiv/card answers */
export function cardView(card) {
  const license = card.spec.license || say("card.not_stated");
  const parts = [
    part(card, "text_encoder", "card.text", "card.load_text", card.text.encoder),
    part(card, "vae", "card.vae", "card.load_vae", card.latents.name),
  ];
  const parameters = say("card.parameters", { count: count(card.parameters) });
  return [
    h("div.stiv-card-title", { title: card.title }, card.title),
    fact("", `${say(`card.${card.kind}`)}, ${parameters}`),
    ...tasksView(card.tasks),
    ...parts.map(([name, text]) => fact(name, text)),
    fact(say("card.licence"), license),
    ...card.notes.map((note) => fact(say("card.inferred"), note)),
  ];
}

function fact(name, text) {
  return h("div", {}, name && h("span.stiv-card-name", {}, `${name} `), text);
}

function tasksView(tasks) {
  if (!tasks.length) return [fact(say("card.trained"), say("card.not_stated"))];
  return byTask(tasks).map(({ tasks: names, ...size }) => {
    const key = size.frames === "1" ? "card.picture" : "card.size";
    return h(
      "div",
      { title: say("card.trained") },
      names.map(taskName).join(", "),
      h("span.stiv-card-name", {}, ` ${say(key, size)}`),
    );
  });
}

function part({ inside }, name, label, load, wanted) {
  return [say(label), inside.includes(name) ? say("card.inside") : say(load, { name: wanted })];
}

/** Where the graph leaves the card. @param {{node: object, doubt: object}[]} found */
export function doubtsView(found) {
  const lines = found.slice(0, MOST_DOUBTS).map(({ node, doubt: { key, values } }) => {
    const known = values.task ? { ...values, task: taskName(values.task) } : values;
    const doubt = say(key, known);
    return h("div", {}, `⚠ ${say("card.doubt", { node: `${node.title} #${node.id}`, doubt })}`);
  });
  const more = found.length - lines.length;
  return more > 0 ? [...lines, h("div", {}, say("card.more", { count: more }))] : lines;
}

/** How the file's contents compare with the card. @param {?object} check as /stiv/verify answers */
export function hashText(card, check) {
  if (!card.tensor_hash) return say("card.hash_missing");
  switch (check?.state) {
    case undefined:
      return say("card.hash_stated", { hash: card.tensor_hash.slice(0, 8) });
    case "running":
      return say("card.running", { percent: Math.round(100 * check.progress) });
    case "failed":
      return say("card.verify_failed", { message: check.message });
    case "not_stated":
      return say("card.hash_missing");
    default:
      return say(`card.${check.state}`);
  }
}
