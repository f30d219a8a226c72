/**
 * STIV Load Checkpoint and STIV Load Model: the card of the chosen file, and where the graph asks
 * for what the model was not trained for.
 */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

import { asksOf } from "./card/asks.mjs";
import { doubts } from "./card/doubts.mjs";
import { cardView, doubtsView, hashText, say } from "./card/view.mjs";
import { fill, h } from "./lib/dom.mjs";
import { addPanel, isWired, onValues, widgetOf } from "./lib/nodes.mjs";
import { often } from "./lib/ticker.mjs";

const FILES = {
  STIVLoadCheckpoint: { folder: "checkpoints", widget: "ckpt_name" },
  STIVLoadModel: { folder: "diffusion_models", widget: "model_name" },
};
const ASK_AGAIN = 500; // ms, while a file is being compared

app.registerExtension({
  name: "STIV.Card",
  nodeCreated(node) {
    if (FILES[node.comfyClass]) addCard(node, FILES[node.comfyClass]);
  },
});

function addCard(node, { folder, widget }) {
  const facts = h("div.stiv-card-facts");
  const hash = h("span", { role: "status" });
  const verify = h("button", { type: "button", title: say("card.verify_hint") }, say("card.verify"));
  const contents = h(
    "div.stiv-card-hash",
    { hidden: true },
    h("span.stiv-card-name", {}, say("card.hash")),
    hash,
    verify,
  );
  const warnings = h("div.stiv-card-doubts", { role: "status" });
  const scroller = h(
    "div.stiv-card-scroller",
    { role: "group", tabindex: "0", aria: { label: say("card.panel") } },
    warnings,
    facts,
    contents,
  );
  const panel = h("div.stiv-card", {}, scroller);

  let chosen; // the file that is shown; undefined before the first one
  let card = null;
  let check = null;
  let shown = "";

  const drawHash = () => {
    contents.hidden = !card;
    if (!card) return;
    fill(hash, hashText(card, check));
    hash.dataset.state = check?.state ?? "";
    verify.hidden = !card.tensor_hash || Boolean(check && check.state !== "failed");
  };
  const drawDoubts = () => {
    const found = card ? asksOf(node).flatMap((ask) =>
      doubts(card, ask).map((doubt) => ({ node: ask.node, doubt }))) : [];
    const now = JSON.stringify(found.map(({ node: at, doubt }) => [at.id, at.title, doubt]));
    if (now !== shown) fill(warnings, doubtsView(found));
    shown = now;
  };
  const show = (...content) => {
    fill(facts, ...content);
    drawHash();
    drawDoubts();
  };

  const choose = async () => {
    const name = isWired(node, widget) ? null : (widgetOf(node, widget)?.value ?? "");
    if (name === chosen) return;
    chosen = name;
    card = check = null;
    if (!name) return show(say(name === null ? "card.wired" : "card.none"));
    show(say("card.waiting"));
    const answer = await ask("card", folder, name);
    if (chosen !== name) return; // another file was chosen meanwhile
    if (answer.error) return show(failure(answer.error));
    card = answer;
    show(...cardView(card));
  };
  verify.addEventListener("click", async () => {
    const name = chosen;
    do {
      const answer = await ask("verify", folder, name);
      if (chosen !== name) return;
      check = answer.error ? { state: "failed", message: answer.error } : answer;
      drawHash();
      if (check.state === "running") await new Promise((done) => setTimeout(done, ASK_AGAIN));
    } while (check.state === "running");
  });

  onValues(node, [widget], choose);
  addPanel(node, "stiv_card", panel, { minHeight: 220, onRemove: often(drawDoubts) });
  choose();
}

function failure(message) {
  return h("div.stiv-card-failed", {}, say("card.failed", { message }));
}

/** What the server says of a file, or `{error}` in words; never throws. */
async function ask(what, folder, name) {
  try {
    const response = await api.fetchApi(`/stiv/${what}?${new URLSearchParams({ folder, name })}`);
    return await response.json();
  } catch (error) {
    return { error: String(error.message ?? error) };
  }
}
