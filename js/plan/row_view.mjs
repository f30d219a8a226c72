/** Rows of the plan panel as elements. Each is made once and then told what it shows. */

import { h } from "../lib/dom.mjs";
import { from } from "../lib/words.mjs";
import { duration, ratio } from "./format.mjs";
import { followers, seamScore } from "./rows.mjs";
import { words } from "./words.mjs";

const say = from(words);

/** The text that a segment is known by: "7", "key 0", "×2 · 3". */
export function nameOf(segment) {
  const [, kind, number] = /^(key|seg|x\d+_)(\d+)$/.exec(segment.name) ?? [null, "", segment.name];
  if (kind === "key") return say("plan.key", { number });
  if (kind.startsWith("x")) return say("plan.level", { level: kind.slice(1, -1), number });
  return number;
}

/**
 * A segment's row.
 *
 * @param {{lock: (item: object) => void, reroll: (item: object) => void}} actions
 * @param {boolean} plain without picture and state
 */
export function segmentRow(actions, plain) {
  let item = null;
  const picture = h("img.stiv-plan-picture", { alt: "", draggable: "false" });
  const frame = h("div.stiv-plan-frame", { aria: { hidden: "true" } }, picture);
  const name = h("b");
  const frames = h("span.stiv-plan-dim");
  const state = h("span.stiv-plan-state");
  const prompt = h("span.stiv-plan-prompt");
  const seed = h("span.stiv-plan-seed");
  const lock = iconButton("lock", () => actions.lock(item));
  const reroll = iconButton("reroll", () => actions.reroll(item));
  const element = h(
    "div.stiv-plan-row",
    { role: "listitem" },
    plain ? null : frame,
    h(
      "div.stiv-plan-words",
      {},
      h("div.stiv-plan-line", {}, name, frames, plain ? null : state),
      h("div.stiv-plan-line", {}, prompt, seed),
    ),
    lock,
    reroll,
  );

  function update(now, { editable, plan }) {
    item = now;
    const { segment } = item;
    text(name, nameOf(segment));
    text(frames, framesText(item));
    text(prompt, item.prompt || say("plan.no_prompt"));
    text(seed, segment.seed);
    prompt.title = item.prompt;
    element.title = say("plan.row_hint", {
      frames: framesText(item),
      count: segment.count,
      given: segment.count - segment.makes,
    });
    seed.title = say(item.locked ? "plan.seed_own" : "plan.seed", { seed: segment.seed });
    seed.classList.toggle("stiv-plan-own", item.locked);
    const can = editable && segment.place !== "";
    const why = say(segment.place === "" ? "plan.fixed_seed" : "plan.wired_seeds");
    setButton(lock, can ? say(item.locked ? "plan.unlock" : "plan.lock") : why, can);
    lock.setAttribute("aria-pressed", String(item.locked));
    icon(lock, item.locked ? "pi-lock" : "pi-lock-open");
    setButton(reroll, can ? rerollHint(followers(plan, item.index)) : why, can);
    if (!plain) showState();
    element.setAttribute("aria-label", described(item, plain));
  }

  function showState() {
    const known = item.seconds ? say("plan.took", { time: duration(item.seconds) }) : "";
    text(state, stateText(item));
    state.title = known;
    element.dataset.state = item.state;
    element.style.setProperty("--stiv-done", String(item.progress ?? 0));
    if (!item.picture) picture.removeAttribute("src");
    else if (picture.getAttribute("src") !== item.picture) picture.src = item.picture;
  }

  return { element, update };
}

/** The line between two segments. */
export function seamRow(actions) {
  let item = null;
  const place = h("span.stiv-plan-dim");
  const score = h("span.stiv-plan-score");
  const reroll = iconButton("seam", () => actions.reroll(item.target));
  const element = h("div.stiv-plan-seam", { role: "listitem" }, place, score, reroll);

  function update(now, { editable, rows }) {
    item = { ...now, target: rows.find((row) => row.index === now.seam.reroll) };
    const { score: seam } = item;
    const { worst, shows } = seamScore(seam);
    text(place, say("plan.seam", { position: item.seam.position }));
    text(score, seamText(seam, worst, shows));
    element.classList.toggle("stiv-plan-shows", shows);
    element.title = say("plan.seam_hint", {
      luma: `${ratio(seam.luma)} ×`,
      colour: `${ratio(seam.colour)} ×`,
      motion: `${ratio(seam.motion)} ×`,
    });
    const can = editable && item.target && item.target.segment.place !== "";
    const name = item.target ? nameOf(item.target.segment) : "";
    setButton(reroll, say("plan.reroll_seam", { name }), Boolean(can));
    element.setAttribute("aria-label", `${place.textContent}: ${score.textContent}`);
  }

  return { element, update };
}

function framesText({ segment, last }) {
  const values = { first: segment.first, last, step: segment.step };
  if (segment.first >= last) return String(segment.first);
  return say(segment.step === 1 ? "plan.frames" : "plan.frames_step", values);
}

function stateText({ state, progress }) {
  if (state === "making") return say("plan.making", { percent: Math.round(progress * 100) });
  return say(state === "unknown" ? "plan.state_unknown" : `plan.${state}`);
}

function seamText(seam, worst, shows) {
  if (seam.stands_still) return say("plan.seam_still");
  return say(shows ? "plan.seam_seen" : "plan.seam_unseen", { ratio: ratio(worst) });
}

function rerollHint(count) {
  return count ? say("plan.reroll_follow", { count }) : say("plan.reroll");
}

function described(item, plain) {
  const seed = say(item.locked ? "plan.seed_own" : "plan.seed", { seed: item.segment.seed });
  const row = say("plan.row", { name: nameOf(item.segment), frames: framesText(item) });
  return [row, plain ? "" : stateText(item), item.prompt, seed].filter(Boolean).join(", ");
}

function iconButton(act, onclick) {
  const name = { lock: "pi-lock-open", reroll: "pi-refresh", seam: "pi-refresh" }[act];
  return h(
    "button.stiv-plan-button",
    { type: "button", dataset: { act }, onclick },
    h("i", { class: `pi ${name}`, aria: { hidden: "true" } }),
  );
}

function icon(button, name) {
  button.firstChild.className = `pi ${name}`;
}

function setButton(button, label, enabled) {
  button.title = label;
  button.setAttribute("aria-label", label);
  button.disabled = !enabled;
}

/** Text only where it is another: what a screen reader has read is not read again. */
export function text(element, value) {
  if (element.textContent !== String(value)) element.textContent = value;
}
