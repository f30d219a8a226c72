/** Pictures and clips from the artist's disk: told apart, made small, and uploaded to the host. */

export const FOLDER = "stiv";
export const ACCEPT = "image/*,video/*";

const CLIP = /\.(mp4|m4v|mov|webm|mkv|avi)$/i;
const PICTURE = /\.(png|jpe?g|webp|gif|bmp|tiff?|avif)$/i;
const LOAD_MS = 20_000; // until a video has shown nothing
const FRAME = { again: 50, tries: 20 }; // milliseconds between
const THUMB = { side: 72, most: 2048, qualities: [0.7, 0.5, 0.3, 0.15] };

/** "picture", "clip", or null for what is neither. */
export function kindOf({ name = "", type = "" }) {
  if (type.startsWith("video/") || CLIP.test(name)) return "clip";
  if ((type.startsWith("image/") && !type.includes("svg")) || PICTURE.test(name)) return "picture";
  return null;
}

/** What went wrong with an upload, as a key of the words and its values. */
export class UploadError extends Error {
  constructor(key, values) {
    super(key);
    Object.assign(this, { key, values });
  }
}

/**
 * Upload a file through the host, and learn what became of it.
 *
 * @param {{fetchApi: (path: string, options?: object) => Promise<Response>}} api the host's
 * @param {File} file
 * @returns {Promise<{file: string, sha256: string, frames: number}>}
 */
export async function upload(api, file) {
  const { name } = file;
  const body = new FormData();
  body.append("image", file, name);
  body.append("subfolder", FOLDER);
  body.append("type", "input");
  const answer = await reach(api, "/upload/image", name, { method: "POST", body });
  if (!answer.ok) throw new UploadError("timeline.refused", { name, status: statusOf(answer) });
  const stored = await answer.json().catch(() => {
    throw new UploadError("timeline.refused", { name, status: statusOf(answer) });
  });
  const path = stored.subfolder ? `${stored.subfolder}/${stored.name}` : stored.name;
  const seen = await ask(api, path);
  if (seen.error) throw new UploadError("timeline.unreadable", { name, error: seen.error });
  return { file: path, sha256: seen.sha256, frames: seen.frames };
}

/**
 * What the server has under a name: `{sha256, frames}`, or `{error, missing}`.
 *
 * @param {string} path in the input folder
 */
export async function ask(api, path) {
  const answer = await reach(api, `/stiv/picture?${new URLSearchParams({ file: path })}`, path);
  return answer.json().catch(() => ({ error: statusOf(answer) }));
}

/** Where the host shows a file of its input folder. */
export function viewPath(path) {
  const cut = path.lastIndexOf("/");
  const subfolder = cut < 0 ? "" : path.slice(0, cut);
  return `/view?${new URLSearchParams({ filename: path.slice(cut + 1), subfolder, type: "input" })}`;
}

/** Whether a file of the input folder can be shown as a picture. */
export function isPicture(path) {
  return kindOf({ name: path }) === "picture";
}

/**
 * A picture as a data URL of no more than 2 KB; "" where the browser cannot read it.
 *
 * @param {object} api the host's
 * @param {File} file
 * @param {string} path where it lies in the input folder now: a page may show videos from there
 */
export async function thumbnail(api, file, path) {
  const isClip = kindOf(file) === "clip";
  try {
    const found = isClip ? firstFrame(api.apiURL(viewPath(path))) : createImageBitmap(file);
    return smallest(await found);
  } catch {
    return ""; // the strip shows the name instead
  }
}

function smallest(source) {
  const canvas = document.createElement("canvas");
  for (let side = THUMB.side; side >= 8; side /= 2) {
    const scale = side / Math.max(source.width, source.height);
    canvas.width = Math.max(1, Math.round(source.width * scale));
    canvas.height = Math.max(1, Math.round(source.height * scale));
    const ctx = canvas.getContext("2d");
    ctx.imageSmoothingQuality = "high";
    ctx.drawImage(source, 0, 0, canvas.width, canvas.height);
    for (const quality of THUMB.qualities) {
      const url = canvas.toDataURL("image/webp", quality);
      if (url.length <= THUMB.most) return url;
    }
  }
  return "";
}

/** The first frame of a video that the server shows; an error where the browser plays none of it. */
export async function firstFrame(url) {
  const video = document.createElement("video");
  video.muted = true;
  video.preload = "auto";
  video.src = url;
  let timer = 0;
  try {
    await new Promise((resolve, reject) => {
      video.onloadeddata = resolve;
      video.onerror = () => reject(new Error("no video that this browser plays"));
      timer = setTimeout(() => reject(new Error("the server sends no frame of it")), LOAD_MS);
    });
    return await bitmapOf(video);
  } finally {
    clearTimeout(timer);
    video.removeAttribute("src");
    video.load(); // or it goes on loading
  }
}

/**
 * The frame that a video shows. A busy browser says that there is one a moment before it can be
 * had: the two come to the page by different threads.
 */
async function bitmapOf(video) {
  for (let tries = 1; ; tries++) {
    try {
      return await createImageBitmap(video);
    } catch (error) {
      if (error.name !== "InvalidStateError" || tries === FRAME.tries) throw error;
      await new Promise((resolve) => setTimeout(resolve, FRAME.again));
    }
  }
}

async function reach(api, path, name, options) {
  try {
    return await api.fetchApi(path, options);
  } catch {
    throw new UploadError("timeline.offline", { name });
  }
}

function statusOf(answer) {
  return `${answer.status} ${answer.statusText}`.trim();
}
