/** Drawing the strip: ruler, frames, pictures, and an overview where not all is in view. */

import { CARD, card, isWhole, overview, ticks, visible, xOf } from "./geometry.mjs";

export const RULER = 16;
export const OVERVIEW = 10;

const GAP = 4;
const RADIUS = 4;

/** Where the film lies: `{top, high}`; below it is the overview, if there is one. */
function film({ view, height, shown }) {
  const below = isWhole(view, shown) ? 0 : OVERVIEW + GAP;
  return { top: RULER, high: height - RULER - below };
}

/**
 * What stays while the pointer moves: the frames, and what lies on them.
 *
 * @param {CanvasRenderingContext2D} ctx scaled to pixels of the strip
 * @param {object} scene
 * @param {import("./geometry.mjs").View} scene.view
 * @param {number} scene.height
 * @param {number} scene.frames of the video
 * @param {number} scene.shown frames of the strip, those beyond the video's end included
 * @param {Card[]} scene.cards pictures in order of their frames
 * @param {Record<string, string>} scene.colours
 *
 * @typedef {object} Card
 * @property {number} from
 * @property {number} to
 * @property {number} count frames, when it is a clip's
 * @property {string} name
 * @property {() => CanvasImageSource | null} picture
 * @property {"" | "missing" | "wrong" | "pending" | "held"} state
 * @property {boolean} chosen
 * @property {boolean} pinned to the last frame
 */
export function paintStrip(ctx, scene) {
  const { view, height, shown, cards } = scene;
  ctx.clearRect(0, 0, view.width, height);
  writeSmall(ctx);
  paintFilm(ctx, scene);
  const [from, to] = visible(view, shown);
  const most = Math.ceil(CARD / view.unit); // frames that a narrow card covers
  const near = cards.filter((it) => it.to >= from - most && it.from <= to);
  for (const it of near) if (!it.chosen) paintCard(ctx, scene, it);
  for (const it of near) if (it.chosen) paintCard(ctx, scene, it);
  if (!isWhole(view, shown)) paintOverview(ctx, scene);
}

/**
 * What follows the pointer and the keys, above the strip.
 *
 * @param {CanvasRenderingContext2D} ctx
 * @param {object} scene as above, and
 * @param {number} scene.cursor the chosen frame
 * @param {number | null} scene.hover the frame below the pointer
 * @param {Card | null} scene.held what is dragged
 * @param {boolean} scene.isEmpty whether nothing lies at the chosen frame
 * @param {boolean} scene.inviting whether something may be placed there
 */
export function paintOver(ctx, scene) {
  const { view, frames, cursor, hover, held, colours, isEmpty } = scene;
  const { top, high } = film(scene);
  writeSmall(ctx);
  if (hover !== null && hover < frames) column(ctx, view, hover, top, high, colours.hover);
  if (isEmpty || held) column(ctx, view, cursor, top, high, colours.chosen);
  if (isEmpty && scene.inviting && view.unit >= 14) plus(ctx, view, cursor, top, high, colours);
  paintRuler(ctx, scene);
  if (held) paintCard(ctx, scene, held);
}

function writeSmall(ctx) {
  ctx.font = "10px system-ui, sans-serif";
  ctx.textBaseline = "middle";
}

function paintFilm(ctx, scene) {
  const { view, frames, shown, colours } = scene;
  const { top, high } = film(scene);
  const end = xOf(view, frames);
  ctx.fillStyle = colours.surface;
  box(ctx, 0, top, view.width, high, RADIUS);
  ctx.fill();
  ctx.save();
  ctx.clip();
  if (shown > frames) paintBeyond(ctx, end, top, view.width - end, high, colours);
  paintLines(ctx, view, shown, top, high, colours);
  ctx.restore();
  ctx.strokeStyle = colours.line;
  ctx.lineWidth = 1;
  box(ctx, 0.5, top + 0.5, view.width - 1, high - 1, RADIUS);
  ctx.stroke();
}

function paintLines(ctx, view, shown, top, high, colours) {
  const [from, to] = visible(view, shown);
  const { step, frames } = ticks(view, shown);
  ctx.fillStyle = colours.line;
  if (view.unit >= 8) {
    ctx.globalAlpha = 0.45;
    for (let frame = from; frame <= to; frame++) ctx.fillRect(xOf(view, frame), top, 1, high);
    ctx.globalAlpha = 1;
  }
  if (step > 1) for (const frame of frames) ctx.fillRect(xOf(view, frame), top, 1, high);
}

function paintBeyond(ctx, x, top, width, high, colours) {
  ctx.fillStyle = colours.error;
  ctx.globalAlpha = 0.12;
  ctx.fillRect(x, top, width, high);
  ctx.globalAlpha = 0.5;
  ctx.strokeStyle = colours.error;
  ctx.lineWidth = 1;
  ctx.beginPath();
  for (let at = Math.max(x, -high) - high; at < x + width; at += 9) {
    if (at + high < x) continue;
    const cut = Math.max(0, x - at); // the hatching begins at the end of the video
    ctx.moveTo(at + cut, top + high - cut);
    ctx.lineTo(at + high, top);
  }
  ctx.stroke();
  ctx.globalAlpha = 1;
  ctx.fillStyle = colours.error;
  ctx.fillRect(x - 1, top, 2, high);
}

function column(ctx, view, frame, top, high, colour) {
  ctx.fillStyle = colour;
  ctx.fillRect(xOf(view, frame), top, Math.max(view.unit, 2), high);
}

function plus(ctx, view, frame, top, high, colours) {
  const x = Math.round(xOf(view, frame) + view.unit / 2);
  const y = Math.round(top + high / 2);
  ctx.fillStyle = colours.accent;
  ctx.fillRect(x - 5, y - 1, 11, 2);
  ctx.fillRect(x - 0.5, y - 5.5, 2, 11);
}

function paintRuler(ctx, { view, frames, shown, cursor, colours }) {
  const { step, frames: numbered } = ticks(view, shown);
  const label = String(cursor);
  const place = xOf(view, cursor) + view.unit / 2;
  const own = ctx.measureText(label).width / 2 + 5;
  ctx.textAlign = "center";
  for (const frame of numbered) {
    const centre = xOf(view, frame) + Math.min(view.unit, step * view.unit) / 2;
    const half = ctx.measureText(String(frame)).width / 2;
    if (Math.abs(centre - place) < half + own) continue; // below the cursor's own
    ctx.fillStyle = frame < frames ? colours.dim : colours.error;
    ctx.fillText(String(frame), inside(centre, half, view.width), RULER / 2 - 1);
  }
  if (place < -view.unit || place > view.width + view.unit) return;
  const x = inside(place, own, view.width);
  ctx.fillStyle = colours.accent;
  box(ctx, x - own, 1, 2 * own, RULER - 3, 6);
  ctx.fill();
  ctx.fillStyle = colours.onAccent;
  ctx.fillText(label, x, RULER / 2);
}

function paintCard(ctx, scene, it) {
  const { view, shown, colours } = scene;
  const { top, high } = film(scene);
  const place = card(view, it.from, it.to, shown);
  const [x, y] = [place.x + 1, top + 3];
  const [width, tall] = [place.width - 2, high - 6];
  ctx.save();
  if (it.state === "held") ctx.globalAlpha = 0.85;
  box(ctx, x, y, width, tall, RADIUS);
  ctx.fillStyle = colours.raised;
  ctx.fill();
  ctx.save();
  ctx.clip();
  const faded = it.state === "missing" || it.state === "pending";
  const picture = it.picture();
  if (picture) paintPicture(ctx, picture, it.count, x, y, width, tall, faded ? 0.35 : 1);
  if (it.count > 1) paintRun(ctx, it, x, y, width, tall, colours);
  if (!picture || faded) paintName(ctx, it, x, y, width, tall, colours);
  ctx.restore();
  paintBorder(ctx, it, x, y, width, tall, colours);
  if (it.pinned) paintPin(ctx, x + width, y, tall, colours);
  ctx.restore();
  if (it.chosen || it.state === "held") paintFoot(ctx, view, it, top + high, colours);
}

/** A clip shows its first frame, and fainter again and again as far as it goes. */
function paintPicture(ctx, picture, count, x, y, width, tall, alpha) {
  const each = count > 1 ? Math.min(width, tall * Math.max(0.8, picture.width / picture.height)) : width;
  for (let at = 0; at < width; at += each) {
    cover(ctx, picture, x + at, y, each, tall, at ? alpha * 0.35 : alpha);
  }
}

function paintBorder(ctx, it, x, y, width, tall, colours) {
  const troubled = it.state === "missing" || it.state === "wrong";
  ctx.lineWidth = it.chosen || troubled ? 2 : 1;
  ctx.strokeStyle = troubled ? colours.error : it.chosen ? colours.accent : colours.edge;
  if (it.state === "missing" || it.state === "pending") ctx.setLineDash([4, 3]);
  box(ctx, x, y, width, tall, RADIUS);
  ctx.stroke();
  ctx.setLineDash([]);
  if (troubled && it.chosen) {
    ctx.lineWidth = 1;
    ctx.strokeStyle = colours.accent;
    box(ctx, x - 2, y - 2, width + 4, tall + 4, RADIUS + 2);
    ctx.stroke();
  }
}

/** A clip: its frames as perforations, and how many they are. */
function paintRun(ctx, it, x, y, width, tall, colours) {
  ctx.fillStyle = colours.shade;
  ctx.fillRect(x, y + tall - 15, width, 15);
  ctx.fillStyle = colours.onShade;
  const label = `▶ ${it.count}`;
  ctx.textAlign = "left";
  ctx.fillText(label, x + 5, y + tall - 7);
  const start = x + ctx.measureText(label).width + 12;
  ctx.globalAlpha *= 0.35;
  for (let at = start; at < x + width - 4; at += 8) ctx.fillRect(at, y + tall - 10, 4, 5);
  ctx.globalAlpha /= 0.35;
}

/** The name of a picture that cannot be seen, in as many lines as there are. */
function paintName(ctx, it, x, y, width, tall, colours) {
  const lines = wrapped(ctx, it.name, width - 6, Math.max(1, Math.floor((tall - 6) / 11)));
  ctx.fillStyle = colours.text;
  ctx.textAlign = "center";
  lines.forEach((line, n) => {
    ctx.fillText(line, x + width / 2, y + tall / 2 + (n - (lines.length - 1) / 2) * 11);
  });
}

function wrapped(ctx, text, width, most) {
  const lines = [];
  let rest = text;
  while (rest && lines.length < most) {
    let end = rest.length;
    while (end > 1 && ctx.measureText(rest.slice(0, end)).width > width) {
      end = Math.min(end - 1, Math.ceil(end * 0.9));
    }
    lines.push(rest.slice(0, end));
    rest = rest.slice(end);
  }
  if (rest && lines.length) lines.push(`${lines.pop().slice(0, -1)}…`);
  return lines;
}

/** Pinned to the last frame: a bar that it stands against. */
function paintPin(ctx, right, y, tall, colours) {
  ctx.fillStyle = colours.accent;
  ctx.fillRect(right - 3, y + 3, 3, tall - 6);
  ctx.beginPath();
  ctx.moveTo(right - 10, y + tall / 2 - 5);
  ctx.lineTo(right - 4, y + tall / 2);
  ctx.lineTo(right - 10, y + tall / 2 + 5);
  ctx.fill();
}

/** Which frame a card wider than a frame belongs to. */
function paintFoot(ctx, view, it, bottom, colours) {
  const x = xOf(view, it.from);
  const width = Math.max((it.to - it.from + 1) * view.unit, 2);
  ctx.fillStyle = colours.accent;
  ctx.fillRect(x, bottom - 3, width, 3);
}

function paintOverview(ctx, { view, height, frames, shown, cards, colours }) {
  const [top, high] = [height - OVERVIEW, OVERVIEW - 2];
  const scale = view.width / shown;
  ctx.fillStyle = colours.surface;
  box(ctx, 0, top, view.width, high, 3);
  ctx.fill();
  for (const it of cards) {
    ctx.fillStyle = it.from < frames ? (it.chosen ? colours.accent : colours.dim) : colours.error;
    const width = Math.max((it.to - it.from + 1) * scale, 2);
    ctx.fillRect(it.from * scale, top + 2, width, high - 4);
  }
  const seen = overview(view, shown);
  ctx.strokeStyle = colours.accent;
  ctx.lineWidth = 1.5;
  box(ctx, seen.x + 1, top + 0.5, Math.max(seen.width - 2, 6), high - 1, 3);
  ctx.stroke();
}

/** A picture that fills a rectangle, its middle in the middle. */
function cover(ctx, picture, x, y, width, tall, alpha) {
  const scale = Math.max(width / picture.width, tall / picture.height);
  const [w, h] = [width / scale, tall / scale];
  ctx.globalAlpha *= alpha;
  ctx.drawImage(
    picture, (picture.width - w) / 2, (picture.height - h) / 2, w, h, x, y, width, tall,
  );
  ctx.globalAlpha /= alpha;
}

function inside(centre, half, width) {
  return Math.min(Math.max(centre, half), width - half);
}

function box(ctx, x, y, width, height, radius) {
  ctx.beginPath();
  ctx.roundRect(x, y, Math.max(width, 0), Math.max(height, 0), radius);
}
