/**
 * Building elements. Whatever comes from a file, a workflow or the server becomes text or an
 * attribute here, never markup.
 */

/**
 * An element: `h("button.stiv-primary", { title: "…", onclick }, "Run", icon)`.
 *
 * @param {string} tag tag name, with classes after dots
 * @param {Record<string, unknown>} [props] `on…` functions are listeners, `style`, `dataset` and
 *   `aria` take objects, `true` and `false` switch an attribute, null and undefined leave it out
 * @param {...(Node|string|number|null|undefined|false)} children strings become text
 * @returns {HTMLElement}
 */
export function h(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(props ?? {})) setProp(element, key, value);
  element.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

function setProp(element, key, value) {
  if (value === null || value === undefined) return;
  if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
  else if (key === "style") Object.assign(element.style, value);
  else if (key === "dataset") Object.assign(element.dataset, value);
  else if (key === "aria") {
    for (const [name, text] of Object.entries(value)) element.setAttribute(`aria-${name}`, text);
  } else if (typeof value === "boolean") element.toggleAttribute(key, value);
  else element.setAttribute(key, value);
}

/** Put new children in an element in place of all that it held. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((c) => c || c === 0));
}

/** Load the pack's stylesheet, once. */
export function useStyles() {
  const href = new URL("../stiv.css", import.meta.url).href;
  if (document.querySelector(`link[href="${href}"]`)) return;
  document.head.append(h("link", { rel: "stylesheet", href }));
}

/**
 * Call `draw` at most once per animation frame, however often the result is asked for.
 *
 * @param {() => void} draw
 * @returns {() => void}
 */
export function onFrame(draw) {
  let asked = 0;
  return () => {
    if (asked) return;
    asked = requestAnimationFrame(() => {
      asked = 0;
      draw();
    });
  };
}
