import assert from "node:assert/strict";
import test from "node:test";

import { from, speak, t } from "../../js/lib/words.mjs";

const TRANSLATIONS = {
  ja: { stiv: { timeline: { add: "画像を追加", count: "{total} 枚中 {n} 枚" } } },
  ko: { nodeDefs: {} },
};

test("a language with translations is spoken, every other one stays English", () => {
  speak(TRANSLATIONS, "ja");
  assert.equal(t("timeline.add", "Add pictures"), "画像を追加");
  assert.equal(t("timeline.new", "New"), "New");
  for (const language of ["ko", "en", "xx", undefined]) {
    speak(TRANSLATIONS, language);
    assert.equal(t("timeline.add", "Add pictures"), "Add pictures");
  }
});

test("values stand where the language wants them", () => {
  const english = "{n} of {total}";
  speak({}, "en");
  assert.equal(t("timeline.count", english, { n: 0, total: 16 }), "0 of 16");
  speak(TRANSLATIONS, "ja");
  assert.equal(t("timeline.count", english, { n: 3, total: 16 }), "16 枚中 3 枚");
});

test("a value is never read as a place, a missing one stays visible", () => {
  speak({}, "en");
  assert.equal(t("x.y", "{a} {b}", { a: "{b}", b: "<b>" }), "{b} <b>");
  assert.equal(t("x.y", "{a}"), "{a}");
});

test("broken translations leave the English words", () => {
  for (const broken of [null, { ja: null }, { ja: { stiv: { timeline: { add: 3 } } } }]) {
    speak(broken, "ja");
    assert.equal(t("timeline.add", "Add pictures"), "Add pictures");
  }
});

test("a command is called as the host calls it", () => {
  speak({ ja: { commands: { STIV_Open: { label: "開く" }, Other_Broken: null } } }, "ja");
  assert.equal(t("commands.STIV_Open", "Open"), "開く");
  assert.equal(t("commands.Other_Broken", "Open"), "Open");
});

test("a widget's table is the fallback", () => {
  speak(TRANSLATIONS, "ja");
  const say = from({ "timeline.add": "Add pictures", "timeline.n": "{n} pictures" });
  assert.equal(say("timeline.add"), "画像を追加");
  assert.equal(say("timeline.n", { n: 2 }), "2 pictures");
});
