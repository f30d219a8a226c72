/** What several of the pack's widgets need of the host's nodes; the same in both renderers. */

import { useStyles } from "./dom.mjs";
import { often } from "./ticker.mjs";

/** The widget of a node by its name, or undefined. */
export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/**
 * Set a number, text or combo widget as if the artist had typed it: its callback runs, the graph
 * is marked as changed. The widget stays the truth; whoever shows it listens to it.
 */
export function setWidget(node, name, value) {
  const widget = widgetOf(node, name);
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value);
  node.setDirtyCanvas?.(true, true);
}

/**
 * Let the host's undo remember the graph as it is: after a gesture in a panel, of which the host
 * sees no mouse or key events in one of the renderers.
 */
export function remember(app) {
  app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
}

/**
 * Call `hook` after the callback that a widget has already. Errors of the hook are logged: a panel
 * must never stop the widget from working.
 */
export function onWidget(widget, hook) {
  const before = widget.callback;
  widget.callback = function (...args) {
    const result = before?.apply(this, args);
    try {
      hook(...args);
    } catch (error) {
      console.warn("STIV:", error);
    }
    return result;
  };
}

/**
 * Show an element on a node, as a widget that is neither in the prompt nor in the workflow's
 * `widgets_values`.
 *
 * @param {object} node
 * @param {string} name
 * @param {HTMLElement} element
 * @param {{minHeight?: number, minWidth?: number, always?: boolean, begin?: () => () => void}}
 *   [options] sizes in pixels at zoom 1, the width being the node's; `always` for what the node
 *   cannot do without, which the setting STIV.Panels.Show leaves alone; `begin` is called when the
 *   node comes on the open graph, and what it returns when the node goes
 */
export function addPanel(node, name, element, options = {}) {
  const { minHeight = 60, minWidth = 270, always = false, begin } = options;
  useStyles();
  element.classList.add("stiv-panel");
  element.style.minHeight = `${minHeight}px`;
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => minHeight,
  });
  widget.serialize = false;
  const panel = { node, widget, element, height: minHeight };
  growToFit(node, minWidth);
  element.dataset.panel = name;
  onNode(node, "onConfigure", () => {
    growToFit(node, minWidth);
    requestAnimationFrame(() => takePlace(node, name, element));
  });
  whileOnGraph(node, () => {
    if (!always) panels.add(panel);
    show(panel, shown || always);
    const end = begin?.();
    return () => {
      panels.delete(panel);
      end?.();
    };
  });
  return widget;
}

const panels = new Set();
let shown = true;

/** Show or hide every panel that a node can do without, those of later nodes too. */
export function showPanels(on) {
  if (on === shown) return;
  shown = on;
  for (const panel of panels) {
    show(panel, on);
    const { node, height } = panel;
    const [, least] = node.computeSize();
    node.setSize([node.size[0], Math.max(node.size[1] + (on ? height : -height), least)]);
    node.setDirtyCanvas?.(true, true);
  }
}

function show({ widget, element }, on) {
  widget.hidden = !on;
  element.style.display = on ? "" : "none";
}

/**
 * Where undo makes a node anew, Nodes 2.0 goes on showing the element of the old one: ours takes
 * its place.
 */
function takePlace(node, name, element) {
  if (element.isConnected || !isOnGraph(node)) return;
  const inNode = `[data-node-id="${CSS.escape(String(node.id))}"]`;
  document.querySelector(`${inNode} [data-panel="${name}"]`)?.replaceWith(element);
}

/** A workflow saved without the panel, or by the other renderer, has a size too small for it. */
function growToFit(node, minWidth) {
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width, minWidth), Math.max(node.size[1], height)]);
}

/**
 * Call `hook` after one of the node's own methods (`onConfigure`, `onConnectionsChange`, …).
 * Errors of the hook are logged.
 */
export function onNode(node, method, hook) {
  const before = node[method];
  node[method] = function (...args) {
    const result = before?.apply(this, args);
    try {
      hook(...args);
    } catch (error) {
      console.warn("STIV:", error);
    }
    return result;
  };
}

/**
 * Call `begin` when a node comes on the open graph, and what it returns when the node goes.
 *
 * The host tells of every node that comes, but makes some that never do (to copy from), and drops
 * those inside subgraphs without a word when undo or another workflow takes the graph's place: so
 * it is looked at as well.
 *
 * @param {object} node
 * @param {() => () => void} begin
 */
function whileOnGraph(node, begin) {
  let end = null;
  const stop = () => {
    end?.();
    end = null;
  };
  const start = () => {
    if (end) return;
    const done = begin();
    const unwatch = often(() => isOnGraph(node) || stop());
    end = () => {
      unwatch();
      done();
    };
  };
  onNode(node, "onAdded", start);
  onNode(node, "onRemoved", stop);
  if (isOnGraph(node)) start();
}

/** Whether a node is on the open graph, or in a subgraph of it that is still in use. */
export function isOnGraph(node) {
  const { graph } = node;
  const root = graph?.rootGraph;
  if (graph?.getNodeById(node.id) !== node) return false;
  return graph === root || root.subgraphs.get(graph.id) === graph;
}

/** Whether a widget's value comes by a wire, so that what the widget holds does not count. */
export function isWired(node, name) {
  return Boolean(node.inputs?.some((input) => input.widget?.name === name && input.link != null));
}

/** Call `hook` whenever one of these widgets may have another value: typed, loaded or wired. */
export function onValues(node, names, hook) {
  for (const name of names) {
    const widget = widgetOf(node, name);
    if (widget) onWidget(widget, hook);
  }
  onNode(node, "onConfigure", hook);
  onNode(node, "onConnectionsChange", hook);
}
