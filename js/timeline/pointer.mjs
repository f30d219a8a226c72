/** The strip by mouse, pen and touch, and files that are dropped on it. */

import {
  cardAt, dragScroll, frameAt, isWhole, overviewAt, scrolled,
} from "./geometry.mjs";
import { OVERVIEW } from "./paint.mjs";
import * as state from "./state.mjs";

const SLOP = 4; // pixels that a press may move and still be a click

/**
 * Let a timeline follow the pointer.
 *
 * @param {import("./widget.mjs").Timeline} timeline
 * @returns {() => void} ends it
 */
export function followPointer(timeline) {
  const { stage } = timeline.parts;
  const pointer = new Pointer(timeline);
  const hear = (kind, act) => stage.addEventListener(kind, act.bind(pointer));
  hear("pointerdown", pointer.down);
  hear("pointermove", pointer.move);
  hear("pointerup", pointer.up);
  hear("pointercancel", pointer.cancel);
  hear("pointerleave", pointer.leave);
  hear("wheel", pointer.wheel);
  hear("dragenter", pointer.filesOver);
  hear("dragover", pointer.filesOver);
  hear("dragleave", pointer.filesGone);
  hear("drop", pointer.filesDropped);
  return () => cancelAnimationFrame(pointer.scrolling);
}

class Pointer {
  constructor(timeline) {
    this.timeline = timeline;
    this.press = null; // `{x, y, item, grip, again, overview}`
    this.scrolling = 0;
  }

  /** Where an event is on the strip, in its own pixels, whatever the graph is scaled to. */
  place(event) {
    const { stage } = this.timeline.parts;
    const box = stage.getBoundingClientRect();
    const scale = stage.offsetWidth / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  down(event) {
    const { timeline } = this;
    event.stopPropagation(); // neither the node nor the graph is dragged
    if (event.button !== 0 || !timeline.view || timeline.held) return;
    const { stage } = timeline.parts;
    stage.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    const { x, y } = this.place(event);
    const shown = timeline.shown();
    if (y >= timeline.height - OVERVIEW - 2 && !isWhole(timeline.view, shown)) {
      this.press = { overview: true };
      timeline.setView(overviewAt(timeline.view, x, shown));
      return;
    }
    const item = this.itemAt(x);
    const frame = frameAt(timeline.view, x, shown);
    const again = !item && !timeline.chosen && frame === timeline.cursor;
    const grip = item ? frame - state.first(item, timeline.frames) : 0;
    this.press = { x, y, item, grip, again };
    if (item) timeline.choose(item);
    else if (frame < timeline.frames) timeline.goTo(frame);
  }

  move(event) {
    const { timeline, press } = this;
    if (!timeline.view) return;
    const { x, y } = this.place(event);
    if (press?.overview) {
      timeline.setView(overviewAt(timeline.view, x, timeline.shown()));
    } else if (timeline.held && !timeline.held.byKey && press) {
      this.drag(x, event.altKey);
    } else if (press?.item && Math.hypot(x - press.x, y - press.y) > SLOP) {
      if (timeline.isLocked()) return;
      timeline.lift(press.item, { copies: event.altKey });
      this.drag(x, event.altKey);
      this.scroll();
    } else {
      this.hover(x);
    }
  }

  drag(x, copies) {
    const { timeline, press } = this;
    const { held, view, frames, items, snap } = timeline;
    this.x = x;
    if (copies !== held.copies) {
      Object.assign(held, { copies, occupied: state.taken(items, frames, copies ? null : held.item) });
    }
    const frame = frameAt(view, x, timeline.shown()) - press.grip;
    held.at = state.nearest(held.item, frame, held.occupied, frames, snap);
    timeline.draw();
  }

  /** Scroll on while something is held at an end of the strip. */
  scroll() {
    this.scrolling = requestAnimationFrame(() => {
      const { timeline } = this;
      if (!timeline.held || !this.press) return;
      const pixels = dragScroll(timeline.view, this.x);
      if (pixels) {
        timeline.view = scrolled(timeline.view, pixels, timeline.shown());
        this.drag(this.x, timeline.held.copies);
      }
      this.scroll();
    });
  }

  up() {
    const { timeline, press } = this;
    this.press = null;
    cancelAnimationFrame(this.scrolling);
    if (!press) return;
    if (timeline.held && !timeline.held.byKey) timeline.putDown();
    else if (press.again && !timeline.isLocked()) timeline.parts.chooser.click();
  }

  cancel() {
    this.press = null;
    cancelAnimationFrame(this.scrolling);
    if (this.timeline.held) this.timeline.putBack();
  }

  hover(x) {
    const { timeline } = this;
    const item = this.itemAt(x);
    timeline.hover = item ? null : frameAt(timeline.view, x, timeline.shown());
    timeline.parts.stage.style.cursor = item && !timeline.isLocked() ? "grab" : "";
    timeline.parts.stage.title = item ? item.file : "";
    timeline.draw();
  }

  leave() {
    this.timeline.hover = null;
    this.timeline.draw();
  }

  /** Scrolls and zooms the strip when it has the focus; the graph else. */
  wheel(event) {
    const { timeline } = this;
    if (document.activeElement !== timeline.parts.stage || !timeline.view) return;
    event.preventDefault();
    event.stopPropagation();
    const { x } = this.place(event);
    if (event.ctrlKey || event.metaKey) return timeline.zoom(event.deltaY < 0 ? 1.25 : 0.8, x);
    timeline.setView(scrolled(timeline.view, event.deltaX + event.deltaY, timeline.shown()));
  }

  filesOver(event) {
    const { timeline } = this;
    if (!event.dataTransfer?.types.includes("Files") || timeline.isLocked()) return;
    event.preventDefault();
    event.stopPropagation();
    event.dataTransfer.dropEffect = "copy";
    timeline.held = { item: null, at: this.frameFor(event) };
    timeline.draw();
  }

  filesGone() {
    if (this.timeline.held && !this.timeline.held.item) this.timeline.putBack();
  }

  filesDropped(event) {
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    event.stopPropagation(); // the host would open what workflow is in them
    this.filesGone();
    this.timeline.add([...event.dataTransfer.files], this.frameFor(event));
  }

  frameFor(event) {
    const { timeline } = this;
    if (!timeline.view) return timeline.cursor;
    const frame = frameAt(timeline.view, this.place(event).x, timeline.shown());
    return Math.min(frame, timeline.frames - 1);
  }

  /** What lies under the pointer; what is chosen lies on top. */
  itemAt(x) {
    const { timeline } = this;
    const cards = timeline.cards().filter((card) => card.item);
    const chosen = cards.filter((card) => card.chosen);
    const shown = timeline.shown();
    if (cardAt(timeline.view, chosen, x, shown) === 0) return chosen[0].item;
    return cards[cardAt(timeline.view, cards, x, shown)]?.item ?? null;
  }
}
