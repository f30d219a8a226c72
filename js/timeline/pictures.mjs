/** What the strip shows of its files, and whether the server has them: asked for when needed. */

import { ask, firstFrame, isPicture, viewPath } from "./files.mjs";

const SIDE = 160; // pixels that a picture is kept with: enough for the strip at twice its size
const AT_ONCE = 3;
const CALM_MS = 150; // between one showing of what arrived and the next
const THUMB = /^data:image\/(webp|jpeg|png);base64,[A-Za-z0-9+/]+=*$/;

export class Pictures {
  /**
   * @param {object} api the host's
   * @param {() => void} changed called when there is something new to show
   */
  constructor(api, changed) {
    this.api = api;
    this.changed = calmly(changed);
    this.seen = new Map(); // what the server said of a file
    this.bitmaps = new Map(); // by file and content; null while it loads or where it cannot
    this.thumbs = new Map(); // by data URL
    this.waiting = [];
    this.running = 0;
    this.isClosed = false;
  }

  /** Ask the server about these items' files; about those it knows already only when `again`. */
  check(items, again = false) {
    for (const file of new Set(items.map((it) => it.file))) {
      if (this.seen.has(file) && !again) continue;
      if (!this.seen.has(file)) this.seen.set(file, {});
      this.enqueue(async () => {
        this.seen.set(file, await ask(this.api, file));
      });
    }
  }

  /** Take what an upload learnt. */
  learn(file, seen) {
    this.seen.set(file, seen);
  }

  /** "missing" from the server, "wrong" content, "" for fine or not known yet. */
  stateOf({ file, sha256 }) {
    const seen = this.seen.get(file) ?? {};
    if (seen.error) return seen.missing ? "missing" : "wrong";
    return seen.sha256 && sha256 && seen.sha256 !== sha256 ? "wrong" : "";
  }

  /** Frames that a file holds, as far as known. */
  framesOf({ file }) {
    return this.seen.get(file)?.frames;
  }

  /** The best there is to draw: the picture itself, its thumbnail, or null. */
  of(item) {
    const thumb = this.thumbOf(item.thumb);
    const seen = this.seen.get(item.file);
    if (!seen?.sha256 || this.stateOf(item)) return thumb;
    const key = `${seen.sha256} ${item.file}`;
    if (!this.bitmaps.has(key)) {
      this.bitmaps.set(key, null);
      this.enqueue(() => this.keep(key, item.file));
    }
    return this.bitmaps.get(key) ?? thumb;
  }

  async keep(key, file) {
    const bitmap = await this.load(file);
    if (this.isClosed) bitmap?.close();
    else this.bitmaps.set(key, bitmap);
  }

  /** A picture, or the first frame of a clip. */
  async load(file) {
    if (!isPicture(file)) return shrunk(await firstFrame(this.api.apiURL(viewPath(file))));
    const answer = await this.api.fetchApi(viewPath(file));
    return answer.ok ? shrunk(await createImageBitmap(await answer.blob())) : null;
  }

  thumbOf(url) {
    if (!THUMB.test(url)) return null; // a workflow's text goes nowhere but into a picture
    if (!this.thumbs.has(url)) {
      const image = new Image();
      image.onload = () => this.changed();
      image.src = url;
      this.thumbs.set(url, image);
    }
    const image = this.thumbs.get(url);
    return image.complete && image.naturalWidth ? image : null;
  }

  close() {
    this.isClosed = true;
    this.waiting.length = 0;
    for (const bitmap of this.bitmaps.values()) bitmap?.close();
    this.bitmaps.clear();
  }

  enqueue(work) {
    this.waiting.push(work);
    while (this.running < AT_ONCE && this.waiting.length) this.next();
  }

  async next() {
    this.running++;
    try {
      await this.waiting.shift()();
    } catch {
      // offline, or no picture of this browser's: the thumbnail or the name stays
    }
    this.running--;
    if (this.isClosed) return;
    this.changed();
    if (this.waiting.length) this.next();
  }
}

/** A function that is called a moment after it was asked for, once for all who asked meanwhile. */
function calmly(act) {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    setTimeout(() => {
      waits = false;
      act();
    }, CALM_MS);
  };
}

async function shrunk(whole) {
  const scale = Math.min(1, SIDE / Math.min(whole.width, whole.height));
  if (scale === 1) return whole;
  const small = await createImageBitmap(whole, {
    resizeWidth: Math.max(1, Math.round(whole.width * scale)),
    resizeHeight: Math.max(1, Math.round(whole.height * scale)),
    resizeQuality: "high",
  });
  whole.close();
  return small;
}
