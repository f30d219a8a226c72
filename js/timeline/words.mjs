/** What the frame timeline says, in English. */

export const words = {
  "timeline.panel": "Frame timeline",
  "timeline.strip": "Frames of the video",
  "timeline.keys":
    "Arrow keys choose a frame, with Shift ten at once, Home and End the first and last, Page Up " +
    "and Page Down the pictures. Enter adds pictures here, Space picks a picture up and puts it " +
    "down, Delete removes it, Control C, X and V copy, cut and paste it.",
  "timeline.add": "Add",
  "timeline.add_hint": "Add pictures or clips at the chosen frame (Enter). Or drop or paste them.",
  "timeline.to_first": "First",
  "timeline.to_first_hint": "Move the chosen picture to the first frame",
  "timeline.to_last": "Last",
  "timeline.to_last_hint":
    "Pin the chosen picture to the last frame, wherever that is when the length changes",
  "timeline.snap": "every",
  "timeline.snap_hint": "Pictures go to frames so far apart; 1 is anywhere",
  "timeline.duplicate": "Copy",
  "timeline.duplicate_hint":
    "Place the chosen picture once more. Or drag it with Alt held down, or Control C and V.",
  "timeline.remove": "Remove",
  "timeline.remove_hint": "Remove the chosen picture from the strip (Delete)",
  "timeline.zoom_in": "Wider frames",
  "timeline.zoom_out": "Narrower frames",
  "timeline.text": "Edit as text",
  "timeline.text_label": "The timeline as JSON",
  "timeline.begin_anew": "Clear the timeline",

  "timeline.at": "frame",
  "timeline.start": "from",
  "timeline.every": "every",
  "timeline.count": "take",
  "timeline.spacing": "spaced",
  "timeline.at_hint": "Where its first frame goes, from 0",
  "timeline.start_hint": "The first frame of the clip that is taken, from 0",
  "timeline.every_hint": "One frame is taken of so many of the clip; 1 takes all",
  "timeline.count_hint": "How many frames are taken",
  "timeline.spacing_hint": "How far apart they go on the timeline",

  "timeline.empty": "Drop pictures or clips here, paste them, or press Add.",
  "timeline.given": "{given} of {frames} frames given",
  "timeline.by_wire": "The length comes by wire; the strip shows {frames} frames.",
  "timeline.text_by_wire": "What lies on this timeline comes by wire.",
  "timeline.frame_empty": "Frame {frame} of {last}, empty",
  "timeline.frame_has": "Frame {frame} of {last}, {name}",
  "timeline.frame_run": "Frame {frame} of {last}, {name}, frames {from} to {to}",
  "timeline.is_missing": "missing",
  "timeline.is_changed": "another file",

  "timeline.lifted": "{name} picked up: arrow keys move it, Space puts it down, Escape puts it back.",
  "timeline.moved": "{name} is at frame {frame} now.",
  "timeline.copied": "{name} copied; paste places it at the chosen frame.",
  "timeline.placed": "{name} placed at frame {frame}.",
  "timeline.placed_many": "{count} placed.",
  "timeline.removed": "{name} removed.",
  "timeline.put_back": "{name} is back at frame {frame}.",
  "timeline.no_room": "There is no room for {name}: make the video longer, or remove something.",
  "timeline.occupied": "Frame {frame} is taken by {name}: move or remove that first.",
  "timeline.uploading": "Uploading {name} …",
  "timeline.uploading_many": "Uploading {done} of {count} …",

  "timeline.not_a_picture": "{name} is neither a picture nor a clip.",
  "timeline.offline": "{name} could not be uploaded: the server does not answer. Add it again.",
  "timeline.refused": "{name} could not be uploaded: the server answered {status}. Add it again.",
  "timeline.unreadable": "{name} was uploaded but cannot be used: {error}",
  "timeline.not_placed":
    "Uploaded to the folder stiv of ComfyUI's input folder, but no longer to be placed: {names}.",
  "timeline.not_pasted": "What was copied is neither a picture, a clip nor part of a timeline.",

  "timeline.beyond":
    "{count} beyond the last frame, {last}: move or remove what is hatched, or make the video longer.",
  "timeline.double": "{count} share a frame: move or remove one of them.",
  "timeline.missing":
    "Missing from ComfyUI's input folder: {names}. Put the files there or place others.",
  "timeline.changed":
    "No longer what was placed here: {names}. Put the right files into ComfyUI's input folder, or " +
    "place these anew.",
  "timeline.and_more": "{names} and {count} more",

  "timeline.unread": "This timeline cannot be shown; its text is kept as it is. {problem}",
  "timeline.too_long": "It is too long.",
  "timeline.no_json": "It is no valid JSON: {error}.",
  "timeline.no_table": "It is no table with 'version' and 'items'.",
  "timeline.version":
    "Its version is {version}, this pack knows {known}: update ComfyUI-STIV if it is newer.",
  "timeline.no_list": "Its 'items' are no list, or too many.",
  "timeline.unknown_key": "It has an unknown key {unknown}.",
  "timeline.no_item": "Item {number} is no table.",
  "timeline.unknown_item_key": "Item {number} has an unknown key {unknown}.",
  "timeline.bad_value": "Item {number} has {value} as '{key}'.",
  "timeline.long_last": "Item {number} has several frames at 'last', where only one has room.",
};
