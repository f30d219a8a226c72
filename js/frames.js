/** STIV Empty Latent: shapes to choose from, seconds, and what a size costs. */

import { app } from "../../scripts/app.js";

import {
  LIMITS,
  REFERENCE,
  SHAPES,
  framesFor,
  relativeWork,
  reshape,
  shapeOf,
  short,
  sideChoices,
  tokens,
  within,
} from "./frames/rule.mjs";
import { words } from "./frames/words.mjs";
import { fill, h } from "./lib/dom.mjs";
import { addPanel, isWired, onValues, remember, setWidget, widgetOf } from "./lib/nodes.mjs";
import { from } from "./lib/words.mjs";

const say = from(words);
const NAMES = ["width", "height", "frames", "batch_size"];
const FPS = "stiv_fps"; // a property of the node: saved with the workflow, never in the prompt
const DEFAULT_FPS = 16;

app.registerExtension({
  name: "STIV.Frames",
  nodeCreated(node) {
    if (node.comfyClass === "STIVEmptyLatent") addFrameRule(node);
  },
});

function addFrameRule(node) {
  const shapes = SHAPES.map((shape) => shapeButton(node, shape));
  const turn = h(
    "button.stiv-frames-turn",
    { type: "button", title: say("frames.turn"), aria: { label: say("frames.turn") } },
    "⇄",
  );
  turn.addEventListener("click", () => turnSize(node));
  const seconds = numberField(say("frames.seconds"), say("frames.seconds_hint"), { step: "any" });
  const fps = numberField(say("frames.fps"), say("frames.fps_hint"), { step: "1" });
  const status = h("div.stiv-frames-status", { role: "status" });
  const cost = h("div.stiv-frames-cost");
  const panel = h(
    "div.stiv-frames",
    { role: "group", aria: { label: say("frames.panel") } },
    h("div.stiv-frames-shapes", {}, ...shapes.map(({ button }) => button), turn),
    h("div.stiv-frames-length", {}, say("frames.length"), seconds, say("frames.s"), fps,
      say("frames.fps_unit")),
    status,
    cost,
  );

  const draw = () => {
    const size = sizeOf(node);
    const rate = within(node.properties?.[FPS] ?? DEFAULT_FPS, LIMITS.fps);
    drawShapes(shapes, turn, size);
    const length = size.frames === null ? "" : String(round(size.frames / rate));
    if (document.activeElement !== seconds) seconds.value = length;
    if (document.activeElement !== fps) fps.value = String(rate);
    seconds.disabled = isWired(node, "frames");
    fill(status, statusLine(node, size));
    fill(cost, ...costLines(size));
  };
  seconds.addEventListener("change", () => {
    setWidget(node, "frames", framesFor(Number(seconds.value), Number(fps.value)));
    remember(app);
    seconds.blur();
    draw();
  });
  fps.addEventListener("change", () => {
    node.setProperty(FPS, within(fps.value, LIMITS.fps));
    remember(app);
    fps.blur();
    draw();
  });
  onValues(node, NAMES, draw);
  addPanel(node, "stiv_frame_rule", panel, { minHeight: 142 });
  draw();
}

function shapeButton(node, shape) {
  const [across, down] = shape;
  const button = h(
    "button",
    { type: "button", title: say("frames.shape", { across, down }), aria: { pressed: "false" } },
    `${across}:${down}`,
  );
  button.addEventListener("click", () => setSize(node, reshape(sizeOf(node), shape)));
  return { button, shape };
}

function numberField(label, title, extra) {
  return h("input", { type: "number", min: "0", title, aria: { label }, ...extra });
}

/** What the widgets say; null for what comes by wire, which nobody knows before the run. */
function sizeOf(node) {
  return Object.fromEntries(
    NAMES.map((name) => [name, isWired(node, name) ? null : Number(widgetOf(node, name)?.value)]),
  );
}

function setSize(node, { width, height }) {
  setWidget(node, "width", width);
  setWidget(node, "height", height);
  remember(app);
}

function turnSize(node) {
  const { width, height } = sizeOf(node);
  setSize(node, { width: height, height: width });
}

function drawShapes(shapes, turn, size) {
  const sides = size.width !== null && size.height !== null;
  const current = sides ? shapeOf(size) : null;
  for (const { button, shape } of shapes) {
    const pressed = current !== null && current.every((part) => shape.includes(part));
    button.disabled = !sides;
    button.setAttribute("aria-pressed", String(pressed));
  }
  turn.disabled = !sides;
}

function statusLine(node, size) {
  for (const name of ["width", "height"]) {
    const choices = size[name] === null ? null : sideChoices(size[name]);
    if (!choices) continue;
    const word = say(`frames.${name}`);
    const use = (value) => h(
      "button",
      { type: "button", title: say("frames.use", { name: word, value }),
        onclick: () => {
          setWidget(node, name, value);
          remember(app);
        } },
      String(value),
    );
    const text = say("frames.odd_side", { name: word, value: size[name] });
    return h("span.stiv-frames-odd", {}, `⚠ ${text} `, ...choices.map(use));
  }
  const shown = Object.fromEntries(
    NAMES.map((name) => [name, size[name] ?? say("frames.by_wire")]),
  );
  return say(size.frames === 1 ? "frames.picture" : "frames.exact", shown);
}

function costLines(size) {
  if ([size.width, size.height, size.frames].includes(null)) return [];
  const { each, all } = tokens(size);
  const times = short(relativeWork(size) * (size.batch_size ?? 1));
  return [
    h("div", {}, say("frames.cost", { tokens: all * (size.batch_size ?? 1), each })),
    h("div", {}, say("frames.times", { times, ...REFERENCE })),
  ];
}

function round(value) {
  return Math.round(value * 100) / 100;
}
