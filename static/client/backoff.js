// Milliseconds before the next attempt: full jitter.
export function backoff(attempt, random = Math.random) {
  return random() * Math.min(30_000, 500 * 2 ** attempt);
}

export function pause(ms = 1000) {
  return new Promise((done) => setTimeout(done, ms * (1 + Math.random())));
}

// Milliseconds until a JWT should be replaced, as setTimeout can count; NaN: unknown.
export function refreshIn(token, now = Date.now()) {
  try {
    const { exp } = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
    return Math.min(2 ** 31 - 1, Math.max(1000, 0.8 * (1000 * exp - now)));
  } catch {
    return NaN;
  }
}
