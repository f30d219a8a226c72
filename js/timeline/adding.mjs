/** Pictures and clips that are dropped, pasted or chosen: uploaded, then placed all at once. */

import { from } from "../lib/words.mjs";
import { kindOf, thumbnail, upload, UploadError } from "./files.mjs";
import * as state from "./state.mjs";
import { words } from "./words.mjs";

const say = from(words);

/**
 * Upload files and place them from a frame on. What cannot be uploaded is said; the rest is placed
 * as one step, on the node that stands in this one's place by then: undo makes it anew.
 *
 * @param {import("./widget.mjs").Timeline} timeline
 * @param {File[]} files
 * @param {number} at
 * @param {(key: string) => import("./widget.mjs").Timeline|undefined} stripOf a node's strip, by
 *   its key
 */
export async function addFiles(timeline, files, at, stripOf) {
  if (timeline.isLocked()) return;
  const key = timeline.host.key();
  const troubles = files
    .filter((file) => !kindOf(file))
    .map(({ name }) => say("timeline.not_a_picture", { name }));
  const wanted = files.filter(kindOf);
  const marks = marked(timeline, wanted, at);
  timeline.pending.push(...marks);
  timeline.changed();
  const uploaded = [];
  try {
    for (const [done, file] of wanted.entries()) {
      const now = wanted.length > 1 ? "timeline.uploading_many" : "timeline.uploading";
      timeline.announce(say(now, { name: file.name, done: done + 1, count: wanted.length }));
      const found = await uploadOne(timeline.host, file, troubles);
      if (found) uploaded.push(found);
    }
  } finally {
    timeline.pending = timeline.pending.filter((mark) => !marks.includes(mark));
  }
  const strip = timeline.host.isHere() ? timeline : stripOf(key);
  if (strip && !strip.isLocked()) return place(strip, uploaded, at, troubles);
  if (uploaded.length) {
    const names = uploaded.map(state.nameOf).join(", ");
    troubles.push(say("timeline.not_placed", { names }));
  }
  if (strip) strip.complain(troubles.join(" "));
  else if (uploaded.length) timeline.host.warn(troubles.join(" "));
}

/** A file as the timeline holds it; null with what went wrong added to `troubles`. */
async function uploadOne({ api }, file, troubles) {
  try {
    const stored = await upload(api, file);
    return { ...stored, thumb: await thumbnail(api, file, stored.file) };
  } catch (error) {
    if (!(error instanceof UploadError)) throw error;
    troubles.push(say(error.key, error.values));
    return null;
  }
}

/** Where the files will about be, to be shown while they are on their way. */
function marked(timeline, files, at) {
  const { items, frames, snap, pending } = timeline;
  const occupied = state.taken(items, frames);
  for (const mark of pending) occupied.add(mark.at);
  const marks = [];
  for (const { name } of files) {
    const place = nextPlace(state.item({}), marks, at, occupied, frames, snap);
    if (place === null) break;
    occupied.add(place);
    marks.push({ name, at: place });
  }
  return marks;
}

function place(timeline, uploaded, at, troubles) {
  const { frames, snap } = timeline;
  const placed = [];
  let items = timeline.items;
  for (const { frames: held, ...stored } of uploaded) {
    timeline.pictures.learn(stored.file, { sha256: stored.sha256, frames: held });
    const occupied = state.taken(items, frames);
    const single = state.item(stored);
    const frame = nextPlace(single, placed, at, occupied, frames, snap);
    if (frame === null) {
      troubles.push(say("timeline.no_room", { name: state.nameOf(single) }));
      continue;
    }
    const count = Math.min(held, state.room(frame, occupied, frames));
    placed.push({ ...single, at: frame, count });
    items = state.put(items, placed.at(-1), frames);
  }
  if (placed.length) {
    const [it] = placed;
    const values = { name: state.nameOf(it), frame: it.at, count: placed.length };
    const key = placed.length > 1 ? "timeline.placed_many" : "timeline.placed";
    timeline.commit(items, placed.at(-1), say(key, values));
  }
  if (troubles.length) timeline.complain(troubles.join(" "));
  else timeline.changed();
}

/** After the last that was placed, else the nearest place there is. */
function nextPlace(item, placed, at, occupied, frames, snap) {
  const before = placed.at(-1);
  if (!before) return state.nearest(item, at, occupied, frames, snap);
  const from = before.at + ((before.count ?? 1) - 1) * (before.spacing ?? 1);
  return (
    state.onward(item, from, 1, occupied, frames, snap) ??
    state.nearest(item, from, occupied, frames, snap)
  );
}
