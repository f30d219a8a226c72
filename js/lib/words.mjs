/**
 * The words that people read in the pack's own widgets, in the host's language.
 *
 * English stands in the code, at each call of `t` or in a widget's table (`js/<widget>/words.mjs`,
 * `export const words = { "timeline.add": "Add pictures" }`). Translations stand in
 * locales/<language>/main.json under "stiv", by the same keys split at the first dot. Labels of
 * commands stand where the host looks for them, in commands.json: "commands.<id>".
 */

let translated = {};

/**
 * A text in the host's language.
 *
 * @param {string} key "<widget>.<name>", for example "timeline.add"
 * @param {string} fallback the English text; `{name}` marks a place for a value
 * @param {Record<string, string|number>} [values] what stands in the places
 * @returns {string}
 */
export function t(key, fallback, values = {}) {
  const text = translated[key] ?? fallback;
  return text.replace(/\{(\w+)\}/g, (place, name) => String(values[name] ?? place));
}

/**
 * A widget's whole table bound to `t`: `const say = from(words); say("timeline.add")`.
 *
 * @param {Record<string, string>} table
 */
export function from(table) {
  return (key, values) => t(key, table[key] ?? key, values);
}

/**
 * Speak a language from now on; what is drawn already keeps its words until it is drawn again.
 *
 * @param {Record<string, any>} translations by language, as the host's /i18n answers them
 * @param {string} language the host's Comfy.Locale; one without translations means English
 */
export function speak(translations, language) {
  const { stiv, commands } = translations?.[language] ?? {};
  const labels = Object.entries(commands ?? {}).map(([id, command]) => [id, command?.label]);
  translated = Object.fromEntries([
    ...Object.entries(stiv ?? {}).flatMap(([widget, words]) => keyed(widget, words)),
    ...keyed("commands", Object.fromEntries(labels)),
  ]);
}

function keyed(widget, words) {
  return Object.entries(words)
    .filter(([, text]) => typeof text === "string")
    .map(([name, text]) => [`${widget}.${name}`, text]);
}
