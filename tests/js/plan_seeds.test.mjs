import assert from "node:assert/strict";
import { test } from "node:test";

import { randomSeed, seedsIn, withSeed, withoutSeed } from "../../js/plan/seeds.mjs";

test("seeds are read by the places that they are for", () => {
  const text = "7: 123\n key : 5\nkey1: 18446744073709551615\n07: 9\nnot a seed\n\n 8:4 ";
  const expected = { 7: "123", key0: "5", key1: "18446744073709551615", 8: "4" };
  assert.deepEqual(Object.fromEntries(seedsIn(text)), expected);
  for (const empty of ["", undefined, null, 5]) assert.equal(seedsIn(empty).size, 0);
});

test("a seed replaces its own line, or comes at the end", () => {
  assert.equal(withSeed("", "3", "12"), "3: 12");
  assert.equal(withSeed("1: 2", "3", "12"), "1: 2\n3: 12");
  assert.equal(withSeed("1: 2\n", "3", "12"), "1: 2\n3: 12");
  assert.equal(withSeed("3: 1\n1: 2", "3", "12"), "3: 12\n1: 2");
  assert.equal(withSeed("key: 1", "key0", "12"), "key0: 12");
  assert.equal(withSeed("33: 1", "3", "12"), "33: 1\n3: 12");
});

test("whatever is not understood stays", () => {
  const odd = "# my seeds\n3: abc\n3-5: 7\n\n3: 1";
  assert.equal(withSeed(odd, "3", "9"), "# my seeds\n3: abc\n3-5: 7\n\n3: 9");
  assert.equal(withoutSeed(odd, "3"), "# my seeds\n3: abc\n3-5: 7\n");
  assert.equal(withoutSeed(odd, "4"), odd);
});

test("a seed that is taken out and put back changes nothing else", () => {
  for (let number = 0; number < 30; number++) {
    const place = number % 3 ? String(number) : `key${number}`;
    const text = "100: 1\nkey200: 2";
    assert.equal(withoutSeed(withSeed(text, place, "5"), place), text);
    assert.equal(seedsIn(withSeed(text, place, "5")).get(place), "5");
  }
});

test("a random seed is a whole number that the server takes", () => {
  assert.equal(randomSeed(() => 0), "0");
  assert.match(randomSeed(() => 0.9999999999), /^\d{7}$/);
});
