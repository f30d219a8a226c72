/**
 * Some of what a panel shows lies on other nodes, whose edits nobody announces: panels look again
 * twice a second while the page is visible.
 */

const PERIOD = 500;
const checks = new Set();
let timer = 0;

/**
 * Call `check` twice a second until the returned function is called. An error stops this check
 * only, and is logged.
 *
 * @param {() => void} check
 * @returns {() => void}
 */
export function often(check) {
  checks.add(check);
  timer ||= setInterval(runChecks, PERIOD);
  return () => {
    checks.delete(check);
    if (checks.size) return;
    clearInterval(timer);
    timer = 0;
  };
}

function runChecks() {
  if (document.hidden) return;
  for (const check of checks) {
    try {
      check();
    } catch (error) {
      checks.delete(check);
      console.warn("STIV:", error);
    }
  }
}
