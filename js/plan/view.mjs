/** The plan panel as elements: a head with sums, and a list of which only what shows is there. */

import { h, onFrame } from "../lib/dom.mjs";
import { from } from "../lib/words.mjs";
import { duration, short, size } from "./format.mjs";
import { seamRow, segmentRow, text } from "./row_view.mjs";
import { visible } from "./rows.mjs";
import { words } from "./words.mjs";

const say = from(words);
const MARGIN = 100; // pixels above and below what shows, made beforehand

/**
 * @param {{lock: Function, reroll: Function, check: Function}} actions
 * @param {{plain?: boolean}} [options] plain: the plan alone, without what was made of it
 */
export function planView(actions, { plain = false } = {}) {
  const length = h("div.stiv-plan-length");
  const costs = h("div.stiv-plan-costs");
  const check = h("button.stiv-plan-check", { type: "button", onclick: actions.check });
  const bar = h("div.stiv-plan-bar", {
    role: "progressbar",
    aria: { label: say("plan.progress"), valuemin: 0, valuemax: 100 },
  });
  const note = h("div.stiv-plan-note", { role: "status" });
  const room = h("div.stiv-plan-room");
  const list = h(
    "div.stiv-plan-list",
    { role: "list", tabindex: "0", aria: { label: say("plan.list") } },
    room,
  );
  list.setAttribute("data-capture-wheel", "true");
  const element = h(
    "div.stiv-plan",
    { role: "group", aria: { label: say("plan.panel") } },
    length,
    h("div.stiv-plan-head", {}, costs, plain ? null : check),
    plain ? null : bar,
    note,
    list,
  );
  const drawn = new Map();
  let model = null;

  function show(next) {
    model = next;
    const { plan, totals } = model;
    text(length, plan ? lengthText(plan) : "");
    text(costs, plan ? costsText(plan, totals) : "");
    costs.title = say("plan.costs_hint");
    check.title = say("plan.check_hint");
    text(check, say(model.checking ? "plan.checking" : "plan.check"));
    check.disabled = Boolean(model.checking) || !model.canCheck;
    showBar(model.run);
    text(note, model.note ?? "");
    note.classList.toggle("stiv-plan-error", Boolean(model.isError));
    room.style.height = `${plan ? model.rows.height : 0}px`;
    list.hidden = !plan;
    drawRows();
  }

  function showBar(run) {
    const active = Boolean(run?.active);
    bar.hidden = !active;
    const percent = active ? Math.round(run.progress * 100) : 0;
    bar.style.setProperty("--stiv-done", String(percent / 100));
    bar.setAttribute("aria-valuenow", String(percent));
  }

  function drawRows() {
    const items = model?.plan ? model.rows.items : [];
    const from = list.scrollTop - MARGIN;
    const height = Math.max(list.clientHeight, 400); // before it is laid out, it has none
    const [first, end] = visible(items, from, list.scrollTop + height + MARGIN);
    const wanted = new Map(items.slice(first, end).map((item, at) => [item.key, [item, first + at]]));
    for (const [key, row] of drawn) {
      if (wanted.get(key)?.[0].kind === row.kind) continue;
      row.element.remove();
      drawn.delete(key);
    }
    let before = null;
    for (const [key, [item, at]] of wanted) {
      const row = drawn.get(key) ?? made(item);
      drawn.set(key, row);
      row.element.style.top = `${item.top}px`;
      row.element.style.height = `${item.height}px`;
      row.element.setAttribute("aria-setsize", String(items.length));
      row.element.setAttribute("aria-posinset", String(at + 1));
      row.update(item, { editable: model.editable, plan: model.plan, rows: items });
      // in the order of the list, for the Tab key; moved only if needed, or it would lose focus
      const place = before ? before.nextSibling : room.firstChild;
      if (row.element !== place) room.insertBefore(row.element, place);
      before = row.element;
    }
  }

  function made(item) {
    const row = item.kind === "seam" ? seamRow(actions) : segmentRow(actions, plain);
    return { kind: item.kind, ...row };
  }

  list.addEventListener("scroll", onFrame(drawRows));
  list.addEventListener("wheel", (event) => scrollHere(list, event), { passive: true });
  list.addEventListener("keydown", (event) => {
    if (moveFocus(list, model?.rows?.items ?? [], event, drawRows)) event.preventDefault();
    if (event.key !== "Tab" && !event.ctrlKey && !event.metaKey) event.stopPropagation();
  });
  return { element, show };
}

function lengthText(plan) {
  return say("plan.length", {
    frames: plan.frames,
    seconds: short(plan.seconds),
    fps: short(plan.fps),
    width: plan.width,
    height: plan.height,
  });
}

function costsText(plan, totals) {
  if (!totals.segments) return say("plan.nothing");
  const { segments: count } = totals;
  const parts = [count === 1 ? say("plan.segment") : say("plan.segments", { count })];
  if (totals.toMake === 0) parts.push(say("plan.all_kept"));
  else if (totals.toMake !== null) {
    parts.push(say("plan.segments_known", { kept: totals.kept, missing: totals.toMake }));
  }
  if (plan.given) parts.push(say("plan.given", { count: plan.given }));
  if (totals.passes) parts.push(say("plan.passes", { count: totals.passes }));
  if (totals.seconds) parts.push(say("plan.about", { time: duration(totals.seconds) }));
  if (totals.memory) parts.push(say("plan.memory", { size: size(totals.memory) }));
  return parts.join(" · ");
}

/** The wheel scrolls the list while there is something to scroll; with Ctrl it is the canvas's. */
function scrollHere(list, event) {
  if (event.ctrlKey || event.metaKey) return;
  const room = list.scrollHeight - list.clientHeight;
  const goes = event.deltaY < 0 ? list.scrollTop > 0 : list.scrollTop < room - 1;
  if (goes) event.stopPropagation();
}

/** Up and Down go from a button to the same one of the next row. */
function moveFocus(list, items, event, draw) {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  const button = document.activeElement;
  const act = list.contains(button) ? button.dataset.act : null;
  if (!step || !act) return false;
  const kind = act === "seam" ? "seam" : "segment";
  let at = Number(button.closest("[aria-posinset]").getAttribute("aria-posinset")) - 1 + step;
  while (items[at] && items[at].kind !== kind) at += step;
  if (!items[at]) return true;
  const { top, height } = items[at];
  if (top < list.scrollTop) list.scrollTop = top;
  const bottom = top + height - list.clientHeight;
  if (bottom > list.scrollTop) list.scrollTop = bottom;
  draw();
  list.querySelector(`[aria-posinset="${at + 1}"] [data-act="${act}"]`)?.focus({
    preventScroll: true,
  });
  return true;
}
