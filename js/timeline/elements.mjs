/** The timeline's elements: tools, strip, the numbers of what is chosen, and what is said. */

import { fill, h } from "../lib/dom.mjs";
import { from } from "../lib/words.mjs";
import { ACCEPT } from "./files.mjs";
import * as state from "./state.mjs";
import { words } from "./words.mjs";

const say = from(words);

const NAMED = 3; // files that a message names

/**
 * @param {import("./widget.mjs").Timeline} timeline
 * @returns the elements by what they are, and `colours()` to draw with
 */
export function build(timeline) {
  const parts = {};
  parts.chooser = h("input", { type: "file", accept: ACCEPT, multiple: true, hidden: true });
  parts.chooser.addEventListener("change", () => {
    timeline.add([...parts.chooser.files]);
    parts.chooser.value = "";
  });
  parts.canvas = h("canvas");
  parts.strip = h("canvas"); // never on the page: what does not move is kept on it
  parts.stage = h(
    "div.stiv-timeline-stage",
    { tabindex: "0", role: "slider", aria: { label: say("timeline.strip"), valuemin: "0" } },
    parts.canvas,
  );
  parts.numbers = numbers(timeline);
  parts.summary = h("span.stiv-timeline-summary");
  parts.status = h("span.stiv-timeline-status", { role: "status", aria: { live: "polite" } });
  parts.alert = h("div.stiv-timeline-alert", { role: "alert" });
  parts.editor = editor(timeline);
  parts.tools = tools(timeline, parts);
  parts.root = h(
    "div.stiv-timeline",
    { role: "group", aria: { label: say("timeline.panel") } },
    parts.tools.root,
    parts.stage,
    parts.editor,
    h("div.stiv-timeline-row", {}, parts.numbers.root, parts.summary),
    parts.status,
    parts.alert,
    parts.chooser,
  );
  describeKeys(parts);
  keepFromGraph(parts.root);
  parts.colours = colours(parts.root);
  return parts;
}

function describeKeys({ root, stage }) {
  const id = `stiv-timeline-keys-${Math.random().toString(36).slice(2)}`;
  root.append(h("span.stiv-timeline-unseen", { id }, say("timeline.keys")));
  stage.setAttribute("aria-describedby", id);
}

/** Presses here neither move the node nor the graph; files dropped beside the strip stay here. */
function keepFromGraph(root) {
  for (const kind of ["pointerdown", "mousedown", "dblclick"]) {
    root.addEventListener(kind, (event) => event.stopPropagation());
  }
}

function tools(timeline, parts) {
  const tool = (name, text, act) => {
    const label = say(`timeline.${name}_hint`);
    return h("button", { type: "button", title: label, onclick: act }, text);
  };
  const icon = (name, text, act) => {
    const label = say(`timeline.${name}`);
    return h("button", { type: "button", title: label, aria: { label }, onclick: act }, text);
  };
  const found = {
    add: tool("add", `+ ${say("timeline.add")}`, () => parts.chooser.click()),
    first: tool("to_first", say("timeline.to_first"), () => timeline.sendTo(0)),
    last: tool("to_last", say("timeline.to_last"), () => timeline.sendTo("last")),
    duplicate: tool("duplicate", say("timeline.duplicate"), () => timeline.duplicate()),
    remove: tool("remove", say("timeline.remove"), () => timeline.remove()),
    narrower: icon("zoom_out", "−", () => timeline.zoom(1 / 1.5)),
    wider: icon("zoom_in", "+", () => timeline.zoom(1.5)),
    text: icon("text", "{ }", () => toggleText(timeline)),
  };
  found.add.classList.add("stiv-primary");
  const hint = say("timeline.snap_hint");
  found.snap = h("input", { type: "number", min: "1", value: "1", title: hint, aria: { label: hint } });
  found.snap.addEventListener("change", () => {
    timeline.snap = Math.max(1, Math.round(Number(found.snap.value)) || 1);
    found.snap.value = String(timeline.snap);
  });
  const snap = h("label", { title: hint }, say("timeline.snap"), found.snap);
  const { add, first, last, duplicate, remove, narrower, wider, text } = found;
  const space = h("span.stiv-timeline-space");
  found.root = h(
    "div.stiv-timeline-tools", { role: "toolbar" },
    add, first, last, snap, duplicate, remove, space, narrower, wider, text,
  );
  return found;
}

function editor(timeline) {
  const area = h("textarea", {
    hidden: true, spellcheck: "false", aria: { label: say("timeline.text_label") },
  });
  area.addEventListener("change", () => {
    timeline.host.commit(area.value);
    timeline.refresh();
  });
  return area;
}

function toggleText(timeline) {
  const { editor, stage, tools } = timeline.parts;
  editor.hidden = !editor.hidden;
  stage.hidden = !editor.hidden;
  tools.text.setAttribute("aria-pressed", String(!editor.hidden));
  timeline.changed();
  (editor.hidden ? stage : editor).focus({ preventScroll: true });
}

function numbers(timeline) {
  const fields = {};
  for (const key of ["at", "start", "every", "count", "spacing"]) {
    const title = say(`timeline.${key}_hint`);
    const least = String(state.NUMBERS[key] ?? 0);
    const input = h("input", { type: "number", min: least, title, aria: { label: title } });
    input.addEventListener("change", () => {
      timeline.setNumber(key, Number(input.value));
      timeline.changed();
    });
    fields[key] = { input, label: h("label", { title }, say(`timeline.${key}`), input) };
  }
  const name = h("span.stiv-timeline-name");
  const labels = Object.values(fields).map(({ label }) => label);
  return { root: h("span.stiv-timeline-numbers", {}, name, ...labels), name, fields };
}

/** The numbers of the chosen picture or clip, or how many there are. */
export function showChosen(timeline) {
  const { parts, chosen, frames, items, pictures } = timeline;
  const { root, name, fields } = parts.numbers;
  const locked = timeline.isLocked();
  root.hidden = !chosen || locked;
  parts.summary.hidden = !root.hidden;
  parts.summary.textContent = summary(timeline);
  for (const tool of ["first", "last", "duplicate", "remove"]) {
    parts.tools[tool].disabled = !chosen || locked;
  }
  parts.tools.add.disabled = locked;
  if (document.activeElement !== parts.editor) parts.editor.value = timeline.host.text();
  parts.editor.readOnly = timeline.host.isWired("timeline");
  if (document.activeElement !== parts.tools.snap) parts.tools.snap.value = String(timeline.snap);
  describeFrame(timeline);
  if (root.hidden) return;
  name.textContent = state.nameOf(chosen);
  name.title = chosen.file;
  const isClip = chosen.count > 1 || chosen.start > 0 || (pictures.framesOf(chosen) ?? 1) > 1;
  for (const [key, { input, label }] of Object.entries(fields)) {
    label.hidden = key !== "at" && !isClip;
    if (document.activeElement === input) continue;
    input.value = String(key === "at" ? state.first(chosen, frames) : chosen[key]);
  }
}

function summary({ items, frames, problem, host }) {
  if (host.isWired("timeline")) return say("timeline.text_by_wire");
  if (problem) return "";
  if (host.isWired("frames")) return say("timeline.by_wire", { frames });
  if (!items.length) return say("timeline.empty");
  return say("timeline.given", { given: state.taken(items, frames).size, frames });
}

function describeFrame({ parts, chosen, frames, cursor, held, pictures, troubles }) {
  const { stage } = parts;
  const frame = held?.at ?? cursor;
  const last = frames - 1;
  stage.setAttribute("aria-valuemax", String(last));
  stage.setAttribute("aria-valuenow", String(frame));
  let text = say("timeline.frame_empty", { frame, last });
  if (chosen) {
    const values = { frame, last, name: state.nameOf(chosen) };
    const [from, to] = [state.first(chosen, frames), state.last(chosen, frames)];
    text = say(chosen.count > 1 ? "timeline.frame_run" : "timeline.frame_has", { ...values, from, to });
    const wrong = pictures.stateOf(chosen);
    if (wrong) text += `, ${say(wrong === "missing" ? "timeline.is_missing" : "timeline.is_changed")}`;
  }
  stage.setAttribute("aria-valuetext", text);
}

/** What went wrong last, and what stands in the way of a run. */
export function showMessages(timeline) {
  const { alert } = timeline.parts;
  const messages = [timeline.trouble, ...standing(timeline)].filter(Boolean);
  const text = messages.join(" ");
  if (alert.dataset.text === text) return; // else it would be read aloud again
  alert.dataset.text = text;
  alert.hidden = !text;
  const isUnread = timeline.problem && text;
  fill(alert, ...messages.map((message) => h("p", {}, message)), isUnread && clearing(timeline));
}

function clearing(timeline) {
  const clear = () => {
    timeline.host.commit("");
    timeline.refresh();
  };
  return h("button", { type: "button", onclick: clear }, say("timeline.begin_anew"));
}

function standing({ host, problem, items, frames, troubles, pictures }) {
  if (host.isWired("timeline")) return [];
  if (problem) return [say("timeline.unread", { problem: say(problem.key, problem.values) })];
  const messages = [];
  const kinds = [...troubles.values()];
  for (const kind of ["beyond", "double"]) {
    const count = kinds.filter((found) => found === kind).length;
    if (count) messages.push(say(`timeline.${kind}`, { count, last: frames - 1 }));
  }
  for (const [kind, key] of [["missing", "timeline.missing"], ["wrong", "timeline.changed"]]) {
    const files = items.filter((it) => pictures.stateOf(it) === kind).map(state.nameOf);
    if (files.length) messages.push(say(key, { names: listed([...new Set(files)]) }));
  }
  return messages;
}

function listed(names) {
  const text = names.slice(0, NAMED).join(", ");
  if (names.length <= NAMED) return text;
  return say("timeline.and_more", { names: text, count: names.length - NAMED });
}

/** The theme's colours for drawing; looked up again now and then, as themes change. */
function colours(root) {
  let [found, at] = [null, 0];
  return () => {
    if (found && performance.now() - at < 500) return found;
    const style = getComputedStyle(root);
    const of = (name) => style.getPropertyValue(`--stiv-${name}`).trim();
    at = performance.now();
    const looked = {
      surface: of("surface"), raised: of("raised"), line: of("line"), text: of("text"),
      dim: of("dim"), accent: of("accent"), error: of("error"),
      edge: "rgb(0 0 0 / 45%)", onAccent: "#fff", shade: "rgb(0 0 0 / 60%)", onShade: "#fff",
      hover: mix(of("text"), 8), chosen: mix(of("accent"), 22),
    };
    const isSame = found && Object.keys(looked).every((name) => looked[name] === found[name]);
    if (!isSame) found = looked;
    return found;
  };
}

function mix(colour, percent) {
  return `color-mix(in srgb, ${colour} ${percent}%, transparent)`;
}
