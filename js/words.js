import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { speak } from "./lib/words.mjs";

let translations = {};

app.registerExtension({
  name: "STIV.Words",
  // The host waits for `init` before it makes the first node, so no widget is drawn too early.
  async init() {
    try {
      translations = await api.getCustomNodesI18n();
    } catch (error) {
      console.warn("STIV: no translations, words stay English:", error);
    }
    speak(translations, app.extensionManager.setting.get("Comfy.Locale"));
    app.ui.settings.addEventListener("Comfy.Locale.change", (event) =>
      speak(translations, event.detail.value),
    );
  },
});
