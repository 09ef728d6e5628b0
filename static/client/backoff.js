/** Milliseconds before the next attempt: full jitter, for ten thousand clients must not come back together. */
export function backoff(attempt, random = Math.random) {
  return random() * Math.min(30_000, 500 * 2 ** attempt);
}

/** Milliseconds until a JWT should be replaced, within what setTimeout can count to; NaN where it does not tell. */
export function refreshIn(token, now = Date.now()) {
  try {
    const { exp } = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    return Math.min(2 ** 31 - 1, Math.max(1000, 0.8 * (1000 * exp - now)));
  } catch {
    return NaN;
  }
}
