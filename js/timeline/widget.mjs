/** The frame timeline: what lies on it, what is chosen, and every change of it. */

import { onFrame } from "../lib/dom.mjs";
import { from } from "../lib/words.mjs";
import { addFiles } from "./adding.mjs";
import { build, showChosen, showMessages } from "./elements.mjs";
import { clamped, isWhole, resized, shownFrames, showing, startView, zoomed } from "./geometry.mjs";
import { onKey } from "./keys.mjs";
import { paintOver, paintStrip } from "./paint.mjs";
import { Pictures } from "./pictures.mjs";
import { followPointer } from "./pointer.mjs";
import * as state from "./state.mjs";
import { words } from "./words.mjs";

const say = from(words);

// Undoing makes the node anew: within that time it is looked at as before.
const ANEW_MS = 3000;
// It had the focus if that left so shortly before, and gets it back.
const LEFT_MS = 500;

/** How each node's strip was looked at, by the node's key. */
const views = new Map();
/** Those on the open graph. */
const strips = new Set();

/** The strip of a node on the open graph, by the node's key; undefined where there is none. */
function stripOf(key) {
  return [...strips].find(({ host }) => host.isHere() && host.key() === key);
}

export class Timeline {
  /**
   * @param {object} host the node
   * @param {object} host.api the host's
   * @param {() => string} host.key names the node among all of this page
   * @param {() => string} host.text the timeline's JSON
   * @param {(text: string) => void} host.commit sets it, as one step of the front end's history
   * @param {() => number} host.frames
   * @param {(name: string) => boolean} host.isWired whether an input comes by wire
   * @param {() => boolean} host.isHere whether the node is on the open graph
   * @param {(message: string) => void} host.warn says something where the strip cannot
   */
  constructor(host) {
    this.host = host;
    this.items = [];
    this.problem = null;
    this.frames = 1;
    this.chosen = null;
    this.cursor = 0;
    this.snap = 1;
    this.view = null;
    this.hover = null;
    /** What is dragged, or picked up by key: `{item, at, copies, byKey}`; `item` null for files. */
    this.held = null;
    this.pending = []; // `{name, at}` of files that are being uploaded
    this.trouble = ""; // what went wrong last, until the next change
    this.isGone = true; // until the node is on the graph
    this.wasLoaded = false; // from a workflow, not added by hand
    this.leftAt = 0; // when the focus went, Infinity while it is here
    this.draw = onFrame(() => this.paint());
    this.parts = build(this);
    this.root = this.parts.root;
    this.resizing = new ResizeObserver(() => this.fit());
    this.stopPointer = followPointer(this);
    const { stage, root } = this.parts;
    stage.addEventListener("keydown", (event) => onKey(this, event));
    root.addEventListener("focusin", () => (this.leftAt = Infinity));
    root.addEventListener("focusout", () => (this.leftAt = performance.now()));
  }

  /** The node is on the graph: show what it holds, and listen. */
  open() {
    Object.assign(this, { isGone: false, text: null });
    for (const strip of strips) if (!strip.host.isHere()) strip.close();
    strips.add(this);
    this.pictures = new Pictures(this.host.api, () => this.changed());
    this.resizing.observe(this.parts.stage);
    this.outside = new AbortController();
    const { signal } = this.outside;
    const again = () => this.pictures.check(this.items, true);
    window.addEventListener("focus", again, { signal }); // files may have come back meanwhile
    for (const kind of ["copy", "cut", "paste"]) {
      // before the host's own, which would copy and paste nodes
      window.addEventListener(kind, (event) => this.clipboard(event), { capture: true, signal });
    }
    this.refresh();
  }

  /** The node is gone: nothing that comes late does anything. */
  close() {
    if (this.isGone) return;
    this.isGone = true;
    strips.delete(this);
    const now = performance.now();
    const seen = views.get(this.key);
    if (seen) Object.assign(seen, { closedAt: now, hadFocus: now - this.leftAt < LEFT_MS });
    this.stopPointer();
    this.outside.abort();
    this.resizing.disconnect();
    this.pictures.close();
  }

  /** Read the widgets' values anew. */
  refresh() {
    if (this.isGone) return;
    const { text, frames } = { text: this.host.text(), frames: this.host.frames() };
    if (text === this.text && frames === this.frames) return this.changed();
    const before = this.chosen;
    const wasWhole = this.view && isWhole(this.view, this.shown());
    Object.assign(this, { text, frames, held: null }, state.read(text));
    this.cursor = Math.min(this.cursor, frames - 1);
    this.chosen = before && this.items.find((it) => state.isSame(it, before, frames));
    this.chosen ??= state.itemAt(this.items, this.cursor, frames);
    this.troubles = state.troubles(this.items, frames);
    this.pictures.check(this.items);
    if (wasWhole) this.view = startView(this.view.width, this.shown());
    else if (this.view) this.view = clamped(this.view, this.shown());
    this.changed();
  }

  /** Show what is new, without having changed anything. */
  changed() {
    if (this.isGone) return;
    showMessages(this);
    showChosen(this);
    this.isStale = true;
    this.draw();
  }

  /** Make these the items, as one step that can be undone, and say so. */
  commit(items, chosen, message) {
    this.trouble = "";
    this.held = null;
    this.chosen = chosen;
    if (chosen) this.cursor = Math.min(state.first(chosen, this.frames), this.frames - 1);
    this.host.commit(state.write(items));
    this.refresh();
    this.keepInView();
    this.announce(message);
  }

  announce(message) {
    this.parts.status.textContent = message;
  }

  complain(message) {
    this.trouble = message;
    this.changed();
  }

  // -- what is chosen

  choose(item) {
    this.chosen = item;
    if (item) this.cursor = Math.min(state.first(item, this.frames), this.frames - 1);
    this.changed();
  }

  goTo(frame) {
    this.cursor = Math.min(Math.max(frame, 0), this.frames - 1);
    this.chosen = state.itemAt(this.items, this.cursor, this.frames);
    this.keepInView();
    this.changed();
  }

  /** To the picture before (-1) or after (1) the chosen frame. */
  goToItem(direction) {
    const firsts = this.items.map((it) => state.first(it, this.frames)).sort((a, b) => a - b);
    const next = direction > 0
      ? firsts.find((frame) => frame > this.cursor)
      : firsts.findLast((frame) => frame < this.cursor);
    if (next !== undefined) this.goTo(next);
  }

  // -- changes

  /** Begin to move an item, or with `copies` a copy of it. */
  lift(item, { copies = false, byKey = false } = {}) {
    const occupied = state.taken(this.items, this.frames, copies ? null : item);
    const at = Math.min(state.first(item, this.frames), this.frames - 1);
    this.held = { item, at, copies, byKey, occupied };
    if (byKey) this.announce(say("timeline.lifted", { name: state.nameOf(item) }));
    this.draw();
  }

  /** Put down what is held, at `held.at`. */
  putDown() {
    const { item, at, copies } = this.held;
    const stays = !copies && at === state.first(item, this.frames);
    if (stays || at === null) return this.putBack();
    const moved = { ...item, at };
    const items = state.put(this.items, moved, this.frames, copies ? null : item);
    const key = copies ? "timeline.placed" : "timeline.moved";
    this.commit(items, moved, say(key, { name: state.nameOf(item), frame: at }));
  }

  putBack() {
    const { item } = this.held;
    this.held = null;
    if (item) {
      const frame = state.first(item, this.frames);
      this.choose(item);
      this.announce(say("timeline.put_back", { name: state.nameOf(item), frame }));
    }
    this.draw();
  }

  /** Move the chosen item to the first frame, or pin it to the last. */
  sendTo(at) {
    const item = this.chosen;
    if (!item || item.at === at) return;
    const single = item.count === 1;
    const length = (item.count - 1) * item.spacing;
    const moved = { ...item, at: at === "last" && !single ? this.frames - 1 - length : at };
    const frame = state.first(moved, this.frames);
    const other = this.items.find((it) => it !== item && state.meets(it, moved, this.frames));
    if (other) return this.complain(say("timeline.occupied", { frame, name: state.nameOf(other) }));
    const items = state.put(this.items, moved, this.frames, item);
    this.commit(items, moved, say("timeline.moved", { name: state.nameOf(item), frame }));
  }

  /** One of the numbers of the chosen item. */
  setNumber(key, value) {
    const item = this.chosen;
    const changed = { ...item, [key]: Math.max(Math.round(value) || 0, state.NUMBERS[key] ?? 0) };
    const held = this.pictures.framesOf(item);
    if (held) {
      const most = Math.floor((held - 1 - changed.start) / changed.every) + 1;
      changed.count = Math.max(1, Math.min(changed.count, most));
      changed.start = Math.min(changed.start, held - 1);
    }
    const occupied = state.taken(this.items, this.frames, item);
    const at = state.first(changed, this.frames);
    if (!state.fits(changed, at, occupied, this.frames)) {
      return this.complain(say("timeline.no_room", { name: state.nameOf(item) }));
    }
    if (changed.count > 1) changed.at = at;
    const items = state.put(this.items, changed, this.frames, item);
    this.commit(items, changed, say("timeline.moved", { name: state.nameOf(item), frame: at }));
  }

  /** Place copies of items, the first at the frame nearest to `at`. */
  place(items, at) {
    let [all, placed] = [this.items, null];
    for (const it of items) {
      const away = state.first(it, this.frames) - state.first(items[0], this.frames);
      const occupied = state.taken(all, this.frames);
      const frame = state.nearest(it, at + away, occupied, this.frames, this.snap);
      if (frame === null) {
        return this.complain(say("timeline.no_room", { name: state.nameOf(it) }));
      }
      placed = { ...it, at: frame };
      all = state.put(all, placed, this.frames);
    }
    if (!placed) return;
    const message = { name: state.nameOf(placed), frame: placed.at, count: items.length };
    const key = items.length > 1 ? "timeline.placed_many" : "timeline.placed";
    this.commit(all, placed, say(key, message));
  }

  duplicate() {
    if (this.chosen) this.place([this.chosen], state.last(this.chosen, this.frames) + 1);
  }

  remove() {
    const item = this.chosen;
    if (!item) return;
    const message = say("timeline.removed", { name: state.nameOf(item) });
    this.commit(state.without(this.items, item), null, message);
  }

  add(files, at = this.cursor) {
    return addFiles(this, files, at, stripOf);
  }

  clipboard(event) {
    if (document.activeElement !== this.parts.stage || this.isLocked()) return;
    const { type, clipboardData } = event;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (type === "paste") {
      const files = [...clipboardData.files];
      if (files.length) this.add(files);
      else this.pasteText(clipboardData.getData("text/plain"));
    } else if (this.chosen) {
      clipboardData.setData("text/plain", state.write([this.chosen]));
      this.announce(say("timeline.copied", { name: state.nameOf(this.chosen) }));
      if (type === "cut") this.remove();
    }
  }

  pasteText(text) {
    const { items } = state.read(text);
    if (items.length) this.place(items, this.cursor);
    else this.complain(say("timeline.not_pasted"));
  }

  /** Whether nothing can be changed: the text cannot be read or comes by wire, or all is over. */
  isLocked() {
    return this.isGone || Boolean(this.problem) || this.host.isWired("timeline");
  }

  // -- what is seen

  shown() {
    const ends = this.items.map((it) => Math.min(state.last(it, this.frames), this.frames * 2 + 50));
    return shownFrames(this.frames, Math.max(-1, ...ends));
  }

  /** Fit the canvas to the strip's place on the page, sharp at any zoom of the graph. */
  fit() {
    const { stage } = this.parts;
    const [width, height] = [stage.clientWidth, stage.clientHeight];
    if (!width || !height) return;
    const shown = this.shown();
    if (!this.view) this.recall(width, shown);
    else if (this.view.width !== width) this.view = resized(this.view, width, shown);
    this.height = height;
    this.scale = this.zoomOfPage();
    this.paint();
  }

  /** Draw anew where the graph is enlarged by now, which nobody tells. */
  sharpen() {
    if (!this.view) return;
    const scale = this.zoomOfPage();
    if (scale === this.scale) return;
    this.scale = scale;
    this.draw();
  }

  /** The screen's pixels for one of the strip's, from 1 to 4 in halves. */
  zoomOfPage() {
    const { stage } = this.parts;
    if (!stage.offsetWidth) return this.scale;
    const zoom = (stage.getBoundingClientRect().width / stage.offsetWidth) * devicePixelRatio;
    return Math.min(Math.max(Math.ceil(zoom * 2) / 2, 1), 4);
  }

  /** Look at the strip as before, when the node was there a moment ago. */
  recall(width, shown) {
    this.view = startView(width, shown);
    const seen = views.get(this.host.key());
    const isAnew = this.wasLoaded && performance.now() - seen?.closedAt < ANEW_MS;
    if (!isAnew || seen.frames !== this.frames) return;
    this.snap = seen.snap;
    this.view = clamped({ width, unit: seen.unit, scroll: seen.scroll }, shown);
    this.goTo(seen.cursor);
    if (seen.hadFocus) this.parts.stage.focus({ preventScroll: true });
  }

  remember() {
    const { unit, scroll } = this.view;
    this.key = this.host.key(); // a node that is gone has none any more
    const { cursor, snap, frames } = this;
    views.set(this.key, { cursor, snap, frames, unit, scroll });
  }

  setView(view) {
    this.view = view;
    this.draw();
  }

  zoom(factor, x = this.view.width / 2) {
    this.setView(zoomed(this.view, factor, x, this.shown()));
  }

  keepInView() {
    if (this.view) this.view = showing(this.view, this.cursor, this.shown());
  }

  /** Cards for everything on the strip, in order; `item` is what each stands for. */
  cards() {
    const cards = this.items.map((item) => this.card(item, state.first(item, this.frames)));
    for (const { name, at } of this.pending) {
      cards.push({ from: at, to: at, count: 1, name, picture: () => null, state: "pending" });
    }
    return cards.sort((a, b) => a.from - b.from);
  }

  card(item, at) {
    return {
      item,
      from: at,
      to: at + (item.count - 1) * item.spacing,
      count: item.count,
      name: state.nameOf(item),
      picture: () => this.pictures.of(item), // only what is in view is loaded
      state: this.pictures.stateOf(item) || (this.troubles.has(item) ? "wrong" : ""),
      chosen: item === this.chosen,
      pinned: item.at === "last",
    };
  }

  /** The strip is drawn anew only when it changed: dragging draws what moves above it. */
  paint() {
    if (!this.view || this.isGone) return;
    this.remember();
    const { held, cursor, hover, frames, view, height, parts, scale } = this;
    const colours = parts.colours();
    const isMoving = Boolean(held?.item) && held.at !== null;
    const scene = {
      view, height, frames, hover, colours,
      shown: this.shown(),
      cursor: held?.at ?? cursor,
      held: isMoving ? { ...this.card(held.item, held.at), state: "held", pinned: false } : null,
      isEmpty: !this.chosen,
      inviting: !this.isLocked(),
    };
    const left = isMoving && !held.copies ? held.item : null; // it is above the strip now
    const inputs = [view, height, scale, colours, left];
    if (this.isStale || inputs.some((input, n) => input !== this.drawnFrom?.[n])) {
      this.drawnFrom = inputs;
      this.isStale = false;
      const cards = this.cards().filter((card) => !left || card.item !== left);
      paintStrip(this.scaled(parts.strip), { ...scene, cards });
    }
    const ctx = this.scaled(parts.canvas);
    ctx.clearRect(0, 0, view.width, height);
    ctx.drawImage(parts.strip, 0, 0, view.width, height);
    paintOver(ctx, scene);
  }

  /** A canvas of the strip's size to draw on in the strip's pixels. */
  scaled(canvas) {
    const [width, height] = [this.view.width, this.height].map((n) => Math.round(n * this.scale));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const ctx = canvas.getContext("2d");
    ctx.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    return ctx;
  }
}
