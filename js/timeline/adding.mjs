/** Pictures and clips that are dropped, pasted or chosen: uploaded, then placed all at once. */

import { from } from "../lib/words.mjs";
import { kindOf, thumbnail, upload, UploadError } from "./files.mjs";
import * as state from "./state.mjs";
import { words } from "./words.mjs";

const say = from(words);

/**
 * Upload files and place them from a frame on. What cannot be uploaded is said; the rest is placed
 * as one step. Nothing happens any more when the node is gone before they are there.
 *
 * @param {import("./widget.mjs").Timeline} timeline
 * @param {File[]} files
 * @param {number} at
 */
export async function addFiles(timeline, files, at) {
  if (timeline.isLocked()) return;
  const { api } = timeline.host;
  const troubles = files
    .filter((file) => !kindOf(file))
    .map(({ name }) => say("timeline.not_a_picture", { name }));
  const wanted = files.filter(kindOf);
  const marks = marked(timeline, wanted, at);
  timeline.pending.push(...marks);
  timeline.changed();
  const uploaded = [];
  for (const [done, file] of wanted.entries()) {
    const key = wanted.length > 1 ? "timeline.uploading_many" : "timeline.uploading";
    timeline.announce(say(key, { name: file.name, done: done + 1, count: wanted.length }));
    try {
      const stored = await upload(api, file);
      uploaded.push({ ...stored, thumb: await thumbnail(api, file, stored.file) });
    } catch (error) {
      if (!(error instanceof UploadError)) throw error;
      troubles.push(say(error.key, error.values));
    }
    if (timeline.isGone) return;
  }
  timeline.pending = timeline.pending.filter((mark) => !marks.includes(mark));
  place(timeline, uploaded, at, troubles);
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
