// How long to wait. Nothing in here but numbers.

/** Full jitter, so that ten thousand clients do not come back in the same second. */
export class Backoff {
  #attempt = 0;
  #random;

  constructor(random = Math.random) {
    this.#random = random;
  }

  /** Nothing has failed yet. */
  get fresh() {
    return this.#attempt === 0;
  }

  /** Milliseconds before the next attempt, `least` in any case; the first one is well inside any grace. */
  next(least = 0) {
    return least + this.#random() * Math.min(30_000, 500 * 2 ** this.#attempt++);
  }

  reset() {
    this.#attempt = 0;
  }
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
