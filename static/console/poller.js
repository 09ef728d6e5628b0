// Asks again and again, one question at a time: less often after errors, not at all in a hidden tab.

const LONGEST_MS = 30_000;

// How long to wait: the rhythm, and after errors ever longer; never less than the server wants.
export function pause(everyMs, failures, leastMs = 0) {
  return Math.max(leastMs, failures ? Math.min(LONGEST_MS, everyMs * 2 ** Math.min(failures, 8)) : everyMs);
}

export class Poller {
  #work;
  #everyMs;
  #failed;
  #running = false;
  #wake = () => {};
  #turn = 0;
  #hurried = false;

  // `work` is awaited; `failed` is told its error. everyMs may be a function.
  constructor(work, everyMs, failed = () => {}) {
    this.#work = work;
    this.#everyMs = typeof everyMs === "function" ? everyMs : () => everyMs;
    this.#failed = failed;
  }

  start() {
    if (this.#running) return;
    this.#running = true;
    document.addEventListener("visibilitychange", this.hurry);
    this.#run(++this.#turn);
  }

  stop() {
    this.#running = false;
    document.removeEventListener("visibilitychange", this.hurry);
    this.#wake();
  }

  // Ask now, or as soon as the question under way is answered.
  hurry = () => {
    this.#hurried = true;
    this.#wake();
  };

  async #run(turn) {
    let failures = 0;
    const current = () => this.#running && this.#turn === turn;
    while (current()) {
      let leastMs = 0;
      this.#hurried = false;
      try {
        if (document.visibilityState !== "hidden") await this.#work(current);
        failures = 0;
      } catch (error) {
        if (!current()) return;
        failures += 1;
        leastMs = error.retryMs ?? 0;
        this.#failed(error);
      }
      if (current() && !this.#hurried) await this.#sleep(pause(this.#everyMs(), failures, leastMs));
    }
  }

  #sleep(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
