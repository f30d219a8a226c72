/** The strip by keyboard. */

import * as state from "./state.mjs";

const FAR = 10;

/** @param {import("./widget.mjs").Timeline} timeline */
export function onKey(timeline, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return keepFromGraph(event);
  const act = actions(timeline, event)[event.key];
  if (!act) return;
  event.preventDefault();
  event.stopPropagation(); // the host would move or delete nodes
  act();
}

/** Copy, cut and paste come as events of their own; undo is the host's. */
function keepFromGraph(event) {
  if (["c", "x", "v"].includes(event.key.toLowerCase())) event.stopPropagation();
}

function actions(timeline, { shiftKey }) {
  const far = shiftKey ? FAR : 1;
  const { held, frames, cursor } = timeline;
  if (held?.byKey) {
    const end = frames - 1;
    return {
      ArrowLeft: () => carry(timeline, -far),
      ArrowRight: () => carry(timeline, far),
      Home: () => carry(timeline, -end),
      End: () => carry(timeline, end),
      " ": () => timeline.putDown(),
      Enter: () => timeline.putDown(),
      Escape: () => timeline.putBack(),
      Delete: () => {}, // nothing is removed while it is carried, and no node either
      Backspace: () => {},
    };
  }
  const change = (act) => () => timeline.isLocked() || act();
  return {
    ArrowLeft: () => timeline.goTo(cursor - far),
    ArrowRight: () => timeline.goTo(cursor + far),
    Home: () => timeline.goTo(0),
    End: () => timeline.goTo(frames - 1),
    PageUp: () => timeline.goToItem(-1),
    PageDown: () => timeline.goToItem(1),
    Enter: change(() => timeline.parts.chooser.click()),
    " ": change(() => timeline.chosen && timeline.lift(timeline.chosen, { byKey: true })),
    Delete: change(() => timeline.remove()),
    Backspace: change(() => timeline.remove()),
    Escape: () => (timeline.held ? timeline.putBack() : timeline.parts.stage.blur()),
    "+": () => timeline.zoom(1.5),
    "-": () => timeline.zoom(1 / 1.5),
  };
}

function carry(timeline, step) {
  const { held, frames, snap } = timeline;
  const { item, at, occupied } = held;
  const next = Math.abs(step) === 1
    ? state.onward(item, at, step, occupied, frames, snap)
    : state.nearest(item, at + step, occupied, frames, snap);
  if (next !== null) held.at = next;
  timeline.cursor = held.at;
  timeline.keepInView();
  timeline.changed();
}
