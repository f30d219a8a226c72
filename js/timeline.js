/** STIV Timeline: its strip in place of the text that it writes. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

import {
  addPanel, isOnGraph, isWired, onNode, onValues, setWidget, widgetOf,
} from "./lib/nodes.mjs";
import { often } from "./lib/ticker.mjs";
import { Timeline } from "./timeline/widget.mjs";

const SIZE = { minHeight: 232, minWidth: 480 };

app.registerExtension({
  name: "STIV.Timeline",
  nodeCreated(node) {
    if (node.comfyClass === "STIVTimeline") addTimeline(node);
  },
});

function addTimeline(node) {
  const text = widgetOf(node, "timeline");
  hide(text);
  const timeline = new Timeline({
    api,
    key: () => keyOf(node),
    text: () => String(text.value ?? ""),
    commit: (value) => inOneStep(() => setWidget(node, "timeline", value)),
    frames: () => Math.max(1, Math.round(Number(widgetOf(node, "frames")?.value)) || 1),
    isWired: (name) => isWired(node, name),
    isHere: () => isOnGraph(node),
    warn: (detail) => {
      const summary = node.title;
      app.extensionManager?.toast?.add({ severity: "warn", summary, detail, life: 10_000 });
    },
  });
  onValues(node, ["frames", "timeline"], () => timeline.refresh());
  const hasFiles = (event) => Boolean(event.dataTransfer?.types?.includes("Files"));
  node.onDragOver = (event) => hasFiles(event) && !timeline.isLocked();
  node.onDragDrop = (event) => {
    if (!hasFiles(event)) return false;
    timeline.add([...event.dataTransfer.files]);
    return true;
  };
  const begin = () => {
    timeline.open();
    const stop = often(() => timeline.sharpen());
    return () => {
      stop();
      timeline.close();
    };
  };
  addPanel(node, "stiv_timeline", timeline.root, { ...SIZE, always: true, begin });
  onNode(node, "onConfigure", () => (timeline.wasLoaded = true));
}

/** Names a node among all of this page, also after it was made anew. */
function keyOf({ id, graph }) {
  const workflow = app.extensionManager?.workflow?.activeWorkflow?.path ?? "";
  return [workflow, graph?.isRootGraph === false ? graph.id : "", id].join(" ");
}

/** The text stays an input like any other, only its own field is not shown. */
function hide(widget) {
  widget.hidden = true;
  widget.options.hidden = true; // Nodes 2.0 looks there
}

/** As one step of the front end's history, whenever it happens. */
function inOneStep(change) {
  app.canvas?.emitBeforeChange?.();
  try {
    change();
  } finally {
    app.canvas?.emitAfterChange?.();
  }
}
