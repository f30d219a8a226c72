/** Asking the server what a plan node would plan, before anything runs. */

const MAX_QUERY = 7000; // characters; servers take about 8,000 in an address

/**
 * Inputs as the server takes them in an address: JSON, deflated, in base64 for URLs.
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
 * @param {(path: string) => Promise<Response>} fetchApi the host's
 * @param {string} node id of a plan node
 * @param {object} inputs
 * @returns {Promise<{plan?: object, error?: string, tooLong?: boolean}>} without an answer: why
 */
export async function askForPlan(fetchApi, node, inputs) {
  const query = await packed(inputs);
  if (query.length > MAX_QUERY) return { tooLong: true };
  const answer = await fetchApi(`/stiv/plan?node=${encodeURIComponent(node)}&inputs=${query}`);
  const found = await answer.json();
  return found?.plan ? { plan: found.plan } : { error: String(found?.error ?? answer.status) };
}
