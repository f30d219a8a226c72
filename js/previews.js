/**
 * Moving previews: while a sampler makes a video, its node shows it moving. The server sends a few
 * frames after the host's own still preview (nodes/host/previews.py); here they become the
 * pictures of that same preview.
 */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

import { animate } from "./previews/apng.mjs";
import { enlarged, frameAt, from, still } from "./previews/clock.mjs";

const PREVIEW = "b_preview_with_metadata"; // the host's event
const CANVAS_SIDE = 256; // the canvas renderer enlarges nothing by itself
const DEFAULT_FPS = 8;

/** What moves, by the id of the node that shows it. */
const players = new Map();
const ours = new WeakSet();

app.registerExtension({
  name: "STIV.Previews",
  setup() {
    api.addEventListener("stiv.preview", ({ detail }) => guarded(receive, detail));
    api.addEventListener(PREVIEW, ({ detail }) => guarded(afterStill, detail));
    api.addEventListener("progress_state", ({ detail }) => guarded(stopFinished, detail));
    for (const name of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(name, () => guarded(stopAll));
    }
  },
});

async function guarded(work, detail) {
  try {
    await work(detail);
  } catch (error) {
    console.warn("STIV: no moving preview:", error);
  }
}

function setting(name, fallback) {
  return app.extensionManager?.setting?.get(name) ?? fallback;
}

function rate() {
  const fps = Number(setting("STIV.Previews.Fps", DEFAULT_FPS));
  return fps >= 1 ? Math.min(fps, 60) : DEFAULT_FPS;
}

/**
 * A strip of frames: cut it, and let the node show it from the frame that is due. While one is
 * cut only the newest that came waits: a slow browser shows fewer, but shows.
 */
async function receive(message) {
  if (!setting("STIV.Previews.Moving", true)) return;
  const id = message.displayNodeId;
  const player = players.get(id) ?? { started: performance.now(), timer: 0 };
  players.set(id, player);
  player.newest = message;
  if (player.cutting) return;
  player.cutting = true;
  try {
    while (player.newest) {
      const { strip, count, width, height, ...ids } = player.newest;
      player.newest = null;
      const frames = await cut(strip, count, width, height);
      if (players.get(id) !== player) return; // the sampler has finished meanwhile
      Object.assign(player, { frames, ids });
      play(player);
    }
  } finally {
    player.cutting = false;
  }
}

async function cut(strip, count, width, height) {
  const data = Uint8Array.from(atob(strip), (letter) => letter.charCodeAt(0));
  const picture = await createImageBitmap(new Blob([data], { type: "image/jpeg" }));
  const [w, h] = enlarged(width, height, LiteGraph.vueNodesMode ? 1 : CANVAS_SIDE);
  const blobs = Array.from({ length: count }, (_, index) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: w, height: h });
    const context = canvas.getContext("2d", { alpha: false });
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, index * width, 0, width, height, 0, 0, w, h);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  });
  const frames = await Promise.all(blobs);
  picture.close();
  return Promise.all(frames.map(async (blob) => new Uint8Array(await blob.arrayBuffer())));
}

/** Nodes 2.0 shows an animation; the canvas draws stills, so it gets one after the other. */
function play(player) {
  clearInterval(player.timer);
  showDue(player);
  if (!LiteGraph.vueNodesMode) player.timer = setInterval(() => showDue(player), 1000 / rate());
}

function showDue(player) {
  const { frames, started } = player;
  const due = frameAt(performance.now() - started, rate(), frames.length);
  show(player, LiteGraph.vueNodesMode ? animate(from(frames, due), rate()) : frames[due]);
}

/** Hand a picture to the host as if it were the sampler's own preview. */
function show({ ids }, picture) {
  const detail = { ...ids, blob: new Blob([picture], { type: "image/png" }) };
  ours.add(detail);
  api.dispatchEvent(new CustomEvent(PREVIEW, { detail }));
  app.canvas?.setDirty(true, true);
}

/** The host's own still preview came: ours takes its place before anything is drawn. */
function afterStill(detail) {
  const player = players.get(detail.displayNodeId);
  if (player?.frames && !ours.has(detail)) showDue(player);
}

function stopFinished({ nodes }) {
  for (const player of players.values()) {
    if (player.ids && nodes[player.ids.nodeId]?.state === "finished") stop(player);
  }
}

function stopAll() {
  for (const player of players.values()) stop(player);
}

/** Come to rest at one frame. */
function stop(player) {
  clearInterval(player.timer);
  for (const [id, other] of players) if (other === player) players.delete(id);
  if (player.frames) show(player, player.frames[still(player.frames.length)]);
}
