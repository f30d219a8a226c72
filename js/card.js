/**
 * STIV Load Checkpoint and STIV Load Model: the card of the chosen file, and where the graph asks
 * for what the model was not trained for.
 */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

import { CardPanel } from "./card/panel.mjs";
import { addPanel, isOnGraph, onValues } from "./lib/nodes.mjs";
import { often } from "./lib/ticker.mjs";

const FILES = {
  STIVLoadCheckpoint: { folder: "checkpoints", widget: "ckpt_name" },
  STIVLoadModel: { folder: "diffusion_models", widget: "model_name" },
};

app.registerExtension({
  name: "STIV.Card",
  nodeCreated(node) {
    if (FILES[node.comfyClass]) addCard(node, FILES[node.comfyClass]);
  },
});

function addCard(node, { folder, widget }) {
  const card = new CardPanel(node, widget, (what, name) => ask(what, { folder, name }));
  const look = () => card.look();
  onValues(node, [widget], () => isOnGraph(node) && look());
  const begin = () => {
    look();
    return often(look);
  };
  addPanel(node, "stiv_card", card.element, { minHeight: 220, begin });
}

/** What the server says of a file, or `{error}` in words; never throws. */
async function ask(what, query) {
  try {
    const response = await api.fetchApi(`/stiv/${what}?${new URLSearchParams(query)}`);
    return await response.json();
  } catch (error) {
    return { error: String(error.message ?? error) };
  }
}
