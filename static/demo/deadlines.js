// When others would go. Clients are not told: that a connection closed is no event, as it may come back. So the demo's
// server is asked for the deadlines, and this reckons what is left of them. Pure.

// The server's clock, as far as it can be known here: that of the quickest of the last answers.
export class Clock {
  #samples = [];

  // Instants in ms: theirs, and by the own clock when asked and answered.
  note(theirs, asked, answered) {
    this.#samples.push({ offset: theirs - (asked + answered) / 2, error: (answered - asked) / 2 });
    if (this.#samples.length > 20) this.#samples.shift();
  }

  get #best() {
    return this.#samples.reduce((best, one) => (best && best.error <= one.error ? best : one), null);
  }

  // How far `at` may be wrong; infinite before the first answer.
  get errorMs() {
    return this.#best?.error ?? Infinity;
  }

  at(own) {
    return own + (this.#best?.offset ?? NaN);
  }
}

// What is shown of silence: the last stretch of a deadline, as long as a grace, but only where no sign of life is
// usual any more.
export function hush({ grace_ms: grace, ttl_ms: ttl, ping_ms: ping }) {
  return Math.max(0, Math.min(grace, ttl - 1.5 * ping));
}

export class Deadlines {
  #members = new Map(); // user -> expires_at
  #hushMs = 0;

  take(answer) {
    this.#members = new Map(answer.members.map(({ user, expires_at: at }) => [user, at]));
    this.#hushMs = hush(answer);
  }

  // What is left of the user's last stretch: {ms, share}; null where nothing tells that they might go.
  left(user, now) {
    const ms = this.#members.get(user) - now;
    if (!(ms <= this.#hushMs)) return null;
    return { ms: Math.max(0, ms), share: Math.max(0, ms / this.#hushMs) };
  }

  // How long after the deadline a departure was announced; null where that is not known.
  lateness({ user, reason, at }) {
    const ms = at - this.#members.get(user);
    return reason === "timeout" && ms >= 0 ? ms : null;
  }
}
