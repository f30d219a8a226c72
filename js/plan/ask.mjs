/** Asking the server what a plan node would plan, before anything runs. */

const PART = 7000; // characters; servers take about 8,000 in a header or an address
const MAX_PARTS = 8;
const MAX_BYTES = 400_000; // of JSON

/**
 * Inputs as the server takes them in headers: JSON, deflated, in base64 for URLs.
 *
 * @param {object} inputs
 * @returns {Promise<string>}
 */
export async function packed(inputs) {
  const stream = new Blob([JSON.stringify(inputs)])
    .stream()
    .pipeThrough(new CompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/**
 * @param {(path: string, options: object) => Promise<Response>} fetchApi the host's
 * @param {string} node id of a plan node
 * @param {object} inputs
 * @returns {Promise<{plan?: object, error?: string, tooLong?: boolean}>} without an answer: why
 */
export async function askForPlan(fetchApi, node, inputs) {
  if (new Blob([JSON.stringify(inputs)]).size > MAX_BYTES) return { tooLong: true };
  const text = await packed(inputs);
  if (text.length > MAX_PARTS * PART) return { tooLong: true };
  const headers = {};
  for (let part = 0; part * PART < text.length; part++) {
    headers[`STIV-Inputs-${part}`] = text.slice(part * PART, (part + 1) * PART);
  }
  const answer = await fetchApi(`/stiv/plan?node=${encodeURIComponent(node)}`, { headers });
  const found = await answer.json();
  return found?.plan ? { plan: found.plan } : { error: String(found?.error ?? answer.status) };
}
