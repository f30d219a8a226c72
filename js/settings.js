/** The pack's page in the host's settings, and its commands. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

import { showPanels } from "./lib/nodes.mjs";
import { t } from "./lib/words.mjs";
import { commands, settings } from "./settings/table.mjs";

const PACK = new URL(".", import.meta.url).pathname.split("/").filter(Boolean).pop();
const ON_CHANGE = { "STIV.Panels.Show": showPanels };
const ACTIONS = {
  "STIV.Open.ImageToVideo": () => openWorkflow("image_to_video"),
  "STIV.Open.LongVideo": () => openWorkflow("long_video"),
  "STIV.Panels.Toggle": () => toggle("STIV.Panels.Show"),
};

app.registerExtension({
  name: "STIV.Settings",
  settings: settings.map((setting, index) => ({
    ...setting,
    sortOrder: settings.length - index,
    category: ["STIV", "Appearance", setting.id],
    onChange: ON_CHANGE[setting.id],
  })),
  commands: commands.map(({ id, label, icon }) => ({
    id,
    icon,
    label: () => t(`commands.${id.replaceAll(".", "_")}`, label),
    function: ACTIONS[id],
  })),
  menuCommands: [{ path: ["Extensions", "STIV"], commands: commands.map(({ id }) => id) }],
});

/** Open a workflow of the pack in a tab of its own, as the browser of templates does. */
async function openWorkflow(name) {
  const answer = await api.fetchApi(`/workflow_templates/${PACK}/${name}.json`);
  if (!answer.ok) throw new Error(`${name}.json: ${answer.status} ${answer.statusText}`);
  await app.loadGraphData(await answer.json(), true, true, name);
}

async function toggle(id) {
  const { setting } = app.extensionManager;
  await setting.set(id, !setting.get(id));
}
