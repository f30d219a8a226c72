import assert from "node:assert/strict";
import { test } from "node:test";
import { deflateSync, inflateSync } from "node:zlib";

import { animate } from "../../js/previews/apng.mjs";
import { enlarged, frameAt, from, still } from "../../js/previews/clock.mjs";

const SIGNATURE = Buffer.from("89504e470d0a1a0a", "hex");

function chunk(kind, data) {
  const body = Buffer.concat([Buffer.from(kind, "latin1"), data]);
  const ends = [Buffer.alloc(4), Buffer.alloc(4)];
  ends[0].writeUInt32BE(data.length);
  ends[1].writeUInt32BE(crc32Of(body));
  return Buffer.concat([ends[0], body, ends[1]]);
}

/** The checksum of PNG, bit by bit. */
function crc32Of(data) {
  let crc = ~0;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  }
  return ~crc >>> 0;
}

/** A gray PNG of 2 × 2, its data in two chunks. */
function png(value, width = 2) {
  const header = Buffer.from([0, 0, 0, width, 0, 0, 0, 2, 8, 0, 0, 0, 0]);
  const data = deflateSync(Buffer.from([0, value, value, 0, value, value]));
  return new Uint8Array(
    Buffer.concat([
      SIGNATURE,
      chunk("IHDR", header),
      chunk("tEXt", Buffer.from("Comment\0left out")),
      chunk("IDAT", data.subarray(0, 5)),
      chunk("IDAT", data.subarray(5)),
      chunk("IEND", Buffer.alloc(0)),
    ]),
  );
}

function chunksOf(data) {
  const found = [];
  const buffer = Buffer.from(data);
  assert.deepEqual(buffer.subarray(0, 8), SIGNATURE);
  for (let at = 8; at < buffer.length; ) {
    const length = buffer.readUInt32BE(at);
    const body = buffer.subarray(at + 4, at + 8 + length);
    assert.equal(buffer.readUInt32BE(at + 8 + length), crc32Of(body), "checksum");
    found.push({ kind: body.toString("latin1", 0, 4), data: body.subarray(4) });
    at += 12 + length;
  }
  return found;
}

test("an animation holds every picture, in order, at its rate", () => {
  const chunks = chunksOf(animate([png(10), png(20), png(30)], 8));
  const kinds = chunks.map(({ kind }) => kind).join(" ");
  const [first, other] = ["fcTL IDAT IDAT", "fcTL fdAT fdAT"];
  assert.equal(kinds, `IHDR acTL ${first} ${other} ${other} IEND`);
  assert.deepEqual([...chunks[1].data], [0, 0, 0, 3, 0, 0, 0, 0]);
  const numbered = chunks.filter(({ kind }) => ["fcTL", "fdAT"].includes(kind));
  assert.deepEqual(numbered.map(({ data }) => data.readUInt32BE(0)), [0, 1, 2, 3, 4, 5, 6]);
  for (const { data } of chunks.filter(({ kind }) => kind === "fcTL")) {
    assert.equal(data.length, 26);
    assert.deepEqual([data.readUInt32BE(4), data.readUInt32BE(8)], [2, 2]);
    assert.deepEqual([data.readUInt16BE(20), data.readUInt16BE(22)], [1, 8]);
  }
  const last = chunks.slice(-3, -1).map(({ data }) => data.subarray(4));
  assert.equal(inflateSync(Buffer.concat(last))[1], 30);
});

test("pictures of different sizes are no animation", () => {
  assert.throws(() => animate([png(1), png(2, 3)], 8), /frame 1 .* another size/);
});

test("frames follow the clock and go round", () => {
  assert.deepEqual([0, 124, 125, 250, 1999, 2000, -5].map((ms) => frameAt(ms, 8, 16)), [
    0, 0, 1, 2, 15, 0, 0,
  ]);
  assert.deepEqual(from(["a", "b", "c"], 2), ["c", "a", "b"]);
  assert.deepEqual([16, 7, 1].map(still), [8, 3, 0]);
});

test("small frames are enlarged by a whole factor", () => {
  assert.deepEqual(enlarged(8, 8, 256), [256, 256]);
  assert.deepEqual(enlarged(96, 54, 256), [288, 162]);
  assert.deepEqual(enlarged(300, 20, 256), [300, 20]);
});
