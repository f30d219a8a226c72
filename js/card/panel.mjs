/** The panel of a loader: the card of the chosen file, its doubts, and the check of its contents. */

import { fill, h } from "../lib/dom.mjs";
import { isWired, widgetOf } from "../lib/nodes.mjs";
import { asksOf } from "./asks.mjs";
import { doubts } from "./doubts.mjs";
import { cardView, doubtsView, hashText, say } from "./view.mjs";

const ASK_AGAIN = 500; // ms, while a file is being compared

export class CardPanel {
  #node;
  #widget;
  #ask;
  #file = null;
  #card = null;
  #check = null;
  #doubted = "";
  #facts = h("div.stiv-card-facts");
  #hash = h("span", { role: "status" });
  #verify = h("button", { type: "button", title: say("card.verify_hint") }, say("card.verify"));
  #contents = h("div.stiv-card-hash", { hidden: true });
  #warnings = h("div.stiv-card-doubts", { role: "status" });

  /**
   * @param {object} node a loader
   * @param {string} widget of the file's name
   * @param {(what: "card"|"verify", name: string) => Promise<object>} ask answers what the server
   *   says of a file, or `{error}`
   */
  constructor(node, widget, ask) {
    [this.#node, this.#widget, this.#ask] = [node, widget, ask];
    const name = h("span.stiv-card-name", {}, say("card.hash"));
    this.#contents.append(name, this.#hash, this.#verify);
    this.#verify.addEventListener("click", () => this.#compare());
    const scroller = h(
      "div.stiv-card-scroller",
      { role: "group", tabindex: "0", aria: { label: say("card.panel") } },
      this.#warnings,
      this.#facts,
      this.#contents,
    );
    this.element = h("div.stiv-card", {}, scroller);
  }

  /** Look at the graph again: another file, or a graph that asks for something else. */
  look() {
    const file = fileOf(this.#node, this.#widget);
    if (JSON.stringify(file) !== JSON.stringify(this.#file)) this.#choose(file);
    this.#drawDoubts();
  }

  async #choose(file) {
    [this.#file, this.#card, this.#check] = [file, null, null];
    if (file.state !== "offered") return this.#show(failureOf(file));
    this.#show(say("card.waiting"));
    const answer = await this.#ask("card", file.name);
    if (this.#file !== file) return; // another one was chosen meanwhile
    if (answer.error) return this.#show(failure(say("card.failed", { message: answer.error })));
    this.#card = answer;
    this.#show(...cardView(answer));
  }

  async #compare() {
    const file = this.#file;
    do {
      const answer = await this.#ask("verify", file.name);
      if (this.#file !== file) return;
      this.#check = answer.error ? { state: "failed", message: answer.error } : answer;
      this.#drawHash();
      if (this.#check.state === "running") {
        await new Promise((done) => setTimeout(done, ASK_AGAIN));
      }
    } while (this.#file === file && this.#check.state === "running");
  }

  #show(...content) {
    fill(this.#facts, ...content);
    this.#drawHash();
    this.#drawDoubts();
  }

  #drawHash() {
    const [card, check] = [this.#card, this.#check];
    this.#contents.hidden = !card;
    if (!card) return;
    fill(this.#hash, hashText(card, check));
    this.#hash.dataset.state = check?.state ?? "";
    this.#verify.hidden = !card.tensor_hash || Boolean(check && check.state !== "failed");
  }

  #drawDoubts() {
    const card = this.#card;
    const found = (card ? asksOf(this.#node) : []).flatMap((ask) =>
      doubts(card, ask).map((doubt) => ({ node: ask.node, doubt })),
    );
    const now = JSON.stringify(found.map(({ node, doubt }) => [node.id, node.title, doubt]));
    if (now !== this.#doubted) fill(this.#warnings, doubtsView(found));
    this.#doubted = now;
  }
}

/** The chosen file: whether the node offers it, as far as that can be told here. */
function fileOf(node, name) {
  if (isWired(node, name)) return { name: null, state: "wired" };
  const widget = widgetOf(node, name);
  if (!widget?.value) return { name: null, state: "none" };
  const offered = widget.options?.values;
  const gone = Array.isArray(offered) && !offered.includes(widget.value);
  return { name: String(widget.value), state: gone ? "gone" : "offered" };
}

function failureOf({ state, name }) {
  const text = say(`card.${state}`, { name });
  return state === "gone" ? failure(text) : text;
}

function failure(text) {
  return h("div.stiv-card-failed", {}, text);
}
