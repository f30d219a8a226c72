/** Numbers as people read them. */

/** Seconds: "8 s", "3 min", "2.5 h". */
export function duration(seconds) {
  if (seconds < 10) return `${Number(seconds.toPrecision(2))} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Number((seconds / 3600).toFixed(1))} h`;
}

/** Bytes: "350 MB", "1.2 GB". */
export function size(bytes) {
  if (bytes < 1e9) return `${Math.max(1, Math.round(bytes / 1e6))} MB`;
  return `${Number((bytes / 1e9).toPrecision(bytes < 1e10 ? 2 : 3))} GB`;
}

/** A ratio: "1.3", "12"; "?" where it is not known. */
export function ratio(value) {
  if (!Number.isFinite(value)) return "?";
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

/** A number with at most two decimals. */
export function short(value) {
  return String(Math.round(value * 100) / 100);
}
