/** Joining PNGs of one size into an animated PNG, which every browser plays by itself. */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

/**
 * @param {Uint8Array[]} pictures PNGs of one size and kind, at least one
 * @param {number} fps frames per second, from 1
 * @returns {Uint8Array} an animated PNG that repeats for ever
 */
export function animate(pictures, fps) {
  const [header] = parts(pictures[0], "IHDR");
  const [width, height] = [number(header, 0), number(header, 4)];
  const out = [
    Uint8Array.from(SIGNATURE),
    chunk("IHDR", header),
    chunk("acTL", bytes(pictures.length, 0)),
  ];
  let order = 0;
  pictures.forEach((picture, index) => {
    if (String(parts(picture, "IHDR")[0]) !== String(header)) {
      throw new Error(`frame ${index} of an animation has another size or kind than the first`);
    }
    // x, y 0; a delay of 1 / fps as two 16-bit numbers; no disposal, no blending
    const rate = (1 << 16) | Math.round(fps);
    out.push(chunk("fcTL", bytes(order++, width, height, 0, 0, rate), [0, 0]));
    for (const data of parts(picture, "IDAT")) {
      out.push(index ? chunk("fdAT", bytes(order++), data) : chunk("IDAT", data));
    }
  });
  out.push(chunk("IEND", []));
  return joined(out);
}

/** The contents of a PNG's chunks of one kind. */
function parts(png, kind) {
  const found = [];
  for (let at = SIGNATURE.length; at + 12 <= png.length; ) {
    const length = number(png, at);
    const name = String.fromCharCode(...png.subarray(at + 4, at + 8));
    if (name === kind) found.push(png.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  return found;
}

function chunk(kind, ...contents) {
  const body = joined([[...kind].map((letter) => letter.charCodeAt(0)), ...contents]);
  return joined([bytes(body.length - 4), body, bytes(crc32(body))]);
}

/** 32-bit numbers, the highest byte first. */
function bytes(...numbers) {
  const view = new DataView(new ArrayBuffer(4 * numbers.length));
  numbers.forEach((value, index) => view.setUint32(4 * index, value));
  return new Uint8Array(view.buffer);
}

function number(data, at) {
  return new DataView(data.buffer, data.byteOffset).getUint32(at);
}

function joined(arrays) {
  const out = new Uint8Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    out.set(array, at);
    at += array.length;
  }
  return out;
}

const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function crc32(data) {
  let crc = 0xffffffff;
  for (const byte of data) crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
