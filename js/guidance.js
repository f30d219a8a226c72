/** STIV Guidance and STIV Guider: the strengths of prompt and given frames as a place in a square. */

import { app } from "../../scripts/app.js";

import { cfgOwner } from "./guidance/owner.mjs";
import { USUAL, moved, placeOf, spanOf, strengthsAt } from "./guidance/pad.mjs";
import { words } from "./guidance/words.mjs";
import { fill, h } from "./lib/dom.mjs";
import { addPanel, isWired, onValues, remember, setWidget, widgetOf } from "./lib/nodes.mjs";
import { often } from "./lib/ticker.mjs";
import { from } from "./lib/words.mjs";

const say = from(words);

app.registerExtension({
  name: "STIV.Guidance",
  nodeCreated(node) {
    if (["STIVGuidance", "STIVGuider"].includes(node.comfyClass)) addPad(node);
  },
});

function addPad(node) {
  const handle = h("div.stiv-pad-handle", {
    role: "slider",
    tabindex: "0",
    title: say("guidance.keys"),
    aria: { label: say("guidance.handle"), valuemin: "0", description: say("guidance.keys") },
  });
  const usual = h("div.stiv-pad-usual");
  const square = h("div.stiv-pad-square", {}, usual, handle);
  const values = h("div.stiv-pad-values", { aria: { hidden: "true" } });
  const owners = h("div.stiv-pad-owners");
  const panel = h(
    "div.stiv-pad",
    { role: "group", aria: { label: say("guidance.panel") } },
    square,
    values,
    owners,
  );

  let span = null; // while dragging the axes keep still
  const draw = () => {
    const state = stateOf(node);
    drawSquare({ square, handle, usual }, state, span ?? spanOf(state));
    fill(values, valueText(state));
    fill(owners, ...ownerLines(node, state));
  };
  const write = (strengths) => {
    const { owner, imageHere } = stateOf(node);
    if (owner) setWidget(owner, "cfg", strengths.text);
    if (imageHere) setWidget(node, "image_scale", strengths.image);
    draw();
  };

  onDrag(square, {
    start: () => {
      span = spanOf(stateOf(node));
      handle.focus({ preventScroll: true });
    },
    move: (place) => write(strengthsAt(place, span)),
    end: () => {
      span = null;
      draw();
      remember(app);
    },
  });
  square.addEventListener("dblclick", () => {
    write(USUAL);
    remember(app);
  });
  handle.addEventListener("keydown", (event) => {
    const state = stateOf(node);
    const change = moved(state, event.key, event.shiftKey);
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault(); // nor does the canvas move the node
    event.stopPropagation();
    if (change) write({ ...state, [change.axis]: change.value });
  });
  handle.addEventListener("keyup", ({ key }) => key.startsWith("Arrow") && remember(app));

  onValues(node, ["cfg", "mode", "image_scale"], draw);
  let shown = "";
  const look = () => {
    const { owner, ...rest } = stateOf(node);
    const now = JSON.stringify([owner?.id, owner?.title, rest]);
    if (now !== shown) draw();
    shown = now;
  };
  addPanel(node, "stiv_pad", panel, { minHeight: 210, begin: () => often(look) });
  draw();
}

/**
 * What the pad shows: `text` and `image`, null where that cannot be set here; the node whose cfg
 * is the text's, or why there is none; whether the frames have a strength of their own.
 */
function stateOf(node) {
  const { node: owner, why } = cfgOwner(node);
  const separate = widgetOf(node, "mode")?.value === "separate";
  const imageHere = separate && !isWired(node, "image_scale") && !isWired(node, "mode");
  return {
    text: owner ? widgetOf(owner, "cfg").value : null,
    image: imageHere ? widgetOf(node, "image_scale")?.value : null,
    owner,
    why,
    separate,
    imageHere,
  };
}

function drawSquare({ square, handle, usual }, state, span) {
  const put = (element, { x, y }) => {
    Object.assign(element.style, { left: `${100 * x}%`, bottom: `${100 * y}%` });
  };
  const place = placeOf(state, span);
  put(handle, place);
  put(usual, placeOf(USUAL, span));
  square.style.setProperty("--x", `${100 * place.x}%`);
  square.style.setProperty("--y", `${100 * place.y}%`);
  square.classList.toggle("stiv-pad-no-text", state.text === null);
  square.classList.toggle("stiv-pad-no-image", state.image === null);
  handle.setAttribute("aria-disabled", String(state.text === null && state.image === null));
  handle.setAttribute("aria-valuemax", String(span.text));
  handle.setAttribute("aria-valuenow", String(state.text ?? 0));
  handle.setAttribute("aria-valuetext", valueText(state));
}

function valueText({ text, image, separate }) {
  const number = (value) => (value === null ? "–" : String(Math.round(value * 100) / 100));
  if (!separate && text === null) return say("guidance.joint_unknown");
  if (!separate) return say("guidance.joint", { text: number(text) });
  return say("guidance.both", { text: number(text), image: number(image) });
}

function ownerLines(node, { owner, why, separate, imageHere }) {
  const name = owner === node ? owner.title : `${owner?.title} #${owner?.id}`;
  const text = owner ? say("guidance.text_of", { owner: name }) : say(`guidance.${why}`);
  if (separate) {
    const image = say(imageHere ? "guidance.image_of" : "guidance.image_wired");
    return [h("div", {}, text), h("div", {}, image)];
  }
  const change = h(
    "button",
    { type: "button", disabled: isWired(node, "mode"),
      onclick: () => {
        setWidget(node, "mode", "separate");
        remember(app);
      } },
    say("guidance.separate"),
  );
  return [h("div", {}, text), change];
}

/** Places, from the lower left (0, 0) to the upper right (1, 1), while the primary button is down. */
function onDrag(element, { start, move, end }) {
  const placeOfEvent = (event) => {
    const box = element.getBoundingClientRect();
    return {
      x: (event.clientX - box.left) / box.width,
      y: (box.bottom - event.clientY) / box.height,
    };
  };
  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.stopPropagation(); // nor is the node dragged
    element.setPointerCapture(event.pointerId);
    start();
    move(placeOfEvent(event));
  });
  // focus stays on the handle
  element.addEventListener("mousedown", (event) => event.preventDefault());
  element.addEventListener("pointermove", (event) => {
    if (element.hasPointerCapture(event.pointerId)) move(placeOfEvent(event));
  });
  element.addEventListener("lostpointercapture", end);
}
