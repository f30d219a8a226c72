import assert from "node:assert/strict";
import { test } from "node:test";

import * as geometry from "../../js/timeline/geometry.mjs";

const near = (one, other) => Math.abs(one - other) < 1e-6;

test("a short video is seen whole, a long one with frames wide enough to aim at", () => {
  const short = geometry.startView(480, 16);
  assert.equal(short.unit, 30);
  assert.ok(geometry.isWhole(short, 16));
  const long = geometry.startView(480, 400);
  assert.equal(long.unit, geometry.UNIT.comfortable);
  assert.ok(!geometry.isWhole(long, 400));
});

test("frames and places are each other's inverse", () => {
  for (const [width, shown] of [[480, 16], [480, 400], [200, 1], [900, 100_000]]) {
    let view = geometry.startView(width, shown);
    for (let step = 0; step < 20; step++) {
      view = geometry.zoomed(view, step % 3 ? 1.4 : 0.6, width * ((step * 7) % 10) / 10, shown);
      view = geometry.scrolled(view, step % 2 ? 130 : -70, shown);
      const [from, to] = geometry.visible(view, shown);
      for (const frame of [from, Math.floor((from + to) / 2), to]) {
        const middle = geometry.xOf(view, frame) + view.unit / 2;
        assert.equal(geometry.frameAt(view, middle, shown), frame);
      }
    }
  }
});

test("a view never shows nothing: no further than the ends, no smaller than the whole", () => {
  for (const shown of [1, 16, 400, 5000]) {
    for (const unit of [0, 0.001, 5, 60, 1e6]) {
      for (const scroll of [-1e6, 0, 333, 1e9]) {
        const view = geometry.clamped({ width: 480, unit, scroll }, shown);
        assert.ok(view.unit * shown >= 480 - 1e-6);
        assert.ok(view.scroll >= 0 && view.scroll + 480 <= view.unit * shown + 1e-6);
      }
    }
  }
});

test("zooming keeps what is below the pointer", () => {
  const view = geometry.scrolled(geometry.startView(480, 400), 1200, 400);
  const at = (one, x) => (x + one.scroll) / one.unit;
  for (const factor of [1.25, 0.8, 3]) {
    assert.ok(near(at(geometry.zoomed(view, factor, 200, 400), 200), at(view, 200)));
  }
});

test("another width shows the same, the whole stays whole", () => {
  const whole = geometry.startView(480, 16);
  assert.ok(geometry.isWhole(geometry.resized(whole, 960, 16), 16));
  assert.ok(geometry.isWhole(geometry.resized(whole, 240, 16), 16));
  const part = geometry.startView(480, 400);
  assert.equal(geometry.resized(part, 700, 400).unit, part.unit);
});

test("the chosen frame comes into view by as little scrolling as needed", () => {
  const view = geometry.startView(480, 400);
  for (const frame of [0, 5, 399, 200, 60]) {
    const shown = geometry.showing(view, frame, 400);
    const x = geometry.xOf(shown, frame);
    assert.ok(x >= -1e-6 && x + shown.unit <= 480 + 1e-6);
  }
  assert.deepEqual(geometry.showing(view, 3, 400), view);
});

test("cards are wide enough to grasp, and the later one lies on top", () => {
  const view = geometry.startView(480, 400);
  assert.equal(geometry.card(view, 0, 0, 400).width, geometry.CARD);
  assert.equal(geometry.card(view, 0, 9, 400).width, 10 * view.unit);
  const { x, width } = geometry.card(view, 399, 399, 400);
  assert.equal(x + width, geometry.xOf(view, 400), "the last one is not cut off");
  const cards = [{ from: 0, to: 0 }, { from: 2, to: 2 }];
  assert.equal(geometry.cardAt(view, cards, 10, 400), 0);
  assert.equal(geometry.cardAt(view, cards, 25, 400), 1);
  assert.equal(geometry.cardAt(view, cards, 200, 400), -1);
});

test("numbers on the ruler never touch", () => {
  for (const unit of [0.02, 0.5, 2, 7, 10, 30, 119]) {
    const view = geometry.clamped({ width: 480, unit, scroll: 0 }, 20_000);
    const { step, frames } = geometry.ticks(view, 20_000);
    assert.ok(step * view.unit >= 46);
    assert.ok(frames.length <= 480 / 46 + 2);
    assert.ok(frames.every((frame) => frame % step === 0));
    assert.ok([1, 2, 5].includes(step / 10 ** Math.floor(Math.log10(step) + 1e-9)));
  }
});

test("dragging scrolls at the ends only, faster the nearer", () => {
  const view = { width: 480, unit: 10, scroll: 0 };
  assert.equal(geometry.dragScroll(view, 240), 0);
  assert.ok(geometry.dragScroll(view, 2) < geometry.dragScroll(view, 20));
  assert.ok(geometry.dragScroll(view, 20) < 0);
  assert.ok(geometry.dragScroll(view, 470) > 0);
  assert.ok(geometry.dragScroll(view, 9999) <= 14);
});

test("the overview shows what part is in view, and goes where it is pressed", () => {
  const view = geometry.startView(480, 400);
  const seen = geometry.overview(view, 400);
  assert.ok(near(seen.x, 0) && near(seen.width, 480 * (480 / 4000)));
  for (const x of [0, 100, 240, 480]) {
    const there = geometry.overviewAt(view, x, 400);
    const part = geometry.overview(there, 400);
    assert.ok(x >= part.x - 1e-6 && x <= part.x + part.width + 1e-6);
  }
});

test("frames beyond the end are part of the strip", () => {
  assert.equal(geometry.shownFrames(16, -1), 16);
  assert.equal(geometry.shownFrames(16, 15), 16);
  assert.equal(geometry.shownFrames(16, 20), 21);
});
