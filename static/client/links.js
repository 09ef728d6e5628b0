// The three wires, with one interface: `send(commands)`, `close()`, `heardAt`; what comes in goes to the line, `host`.

export class WebSocketLink {
  heardAt = Date.now();

  constructor(host) {
    const socket = new WebSocket(host.url("/v1/ws", [["token", host.token]], "ws"));
    this.socket = socket;
    socket.onmessage = ({ data }) => {
      this.heardAt = Date.now();
      host.receive(this, JSON.parse(data));
    };
    socket.onclose = ({ code, reason }) => host.end(this, code, reason);
  }

  /** How long it may say nothing. */
  silenceMs(pingMs) {
    return 2.5 * pingMs;
  }

  send(commands) {
    for (const command of commands) this.socket.send(JSON.stringify(command));
  }

  close() {
    this.socket.close();
  }
}

class HttpLink {
  heardAt = Date.now();
  #posted = Promise.resolve();
  #ended = new AbortController();

  constructor(host) {
    this.host = host;
    this.#posted.then(() => this.#start());
  }

  silenceMs() {
    return 37_000; // comments come every 15 s, polls wait for 25 s
  }

  send(commands) {
    for (const batch of batches(commands)) this.#posted = this.#posted.then(() => this.#post(batch));
    return this.#posted;
  }

  close() {
    this.#ended.abort();
  }

  async #start() {
    try {
      await this.send(this.host.owner.prelude());
      if (this.host.owner.places().length) await this.run();
      else this.#rest();
    } catch ({ closeCode, message, retryMs }) {
      this.host.end(this, closeCode ?? 1006, message, retryMs);
    }
  }

  // No channel, nothing to ask for: the next `join` opens another link.
  #rest() {
    this.heardAt = Infinity;
    this.host.receive(this, { type: "welcome" });
  }

  get(more, headers) {
    const places = this.host.owner.places().flatMap(([channel, as, cursor]) => [
      ["channel", channel],
      ["as", as],
      ["cursor", cursor],
    ]);
    return this.host.fetch("/v1/events", [...places, ...more], { headers, signal: this.#ended.signal });
  }

  async #post(commands) {
    let replies;
    try {
      const headers = { "Content-Type": "application/json" };
      const init = { method: "POST", headers, body: JSON.stringify(commands), signal: AbortSignal.timeout(10_000) };
      replies = await (await this.host.fetch("/v1/commands", [], init)).json();
    } catch ({ closeCode = 1006, message, retryMs, refusal }) {
      if (closeCode === 4001 || this === this.host.next) this.host.end(this, closeCode, message, retryMs);
      const code = refusal ?? "unavailable";
      replies = commands.map(({ id }) => ({ type: "error", id, code, message, retry_ms: retryMs }));
    }
    replies.forEach((reply) => this.host.owner.reply(reply));
  }
}

/** A stream, read by fetch: unlike EventSource it keeps the token out of the URL and can tell why it was refused. */
export class SseLink extends HttpLink {
  async run() {
    const { body } = await this.get([], { Accept: "text/event-stream" });
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the stream ended");
      this.heardAt = Date.now();
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const data = /^data: ([^\n]*)/m.exec(block);
        if (data) this.host.receive(this, JSON.parse(data[1]));
      }
    }
  }
}

export class LongPollLink extends HttpLink {
  async run() {
    for (let since; this.host.owner.places().length; ) {
      const answer = await (await this.get(since ? [["since", since], ["wait", 25]] : [["welcome", 1]])).json();
      this.heardAt = Date.now();
      since = answer.next;
      for (const frame of answer.frames) this.host.receive(this, frame);
      // What is refused is refused at once: not in a circle.
      if (answer.frames.some(({ type }) => type === "error")) await new Promise((done) => setTimeout(done, 1000));
    }
    this.heardAt = Infinity;
  }
}

/** Commands as requests may carry them: up to 50, and 16 KiB. */
export function batches(commands) {
  const all = [];
  let room = 0;
  for (const command of commands) {
    room -= sizeOf(command) + 1;
    if (room < 0 || all.at(-1).length === 50) {
      all.push([]);
      room = 16_382 - sizeOf(command);
    }
    all.at(-1).push(command);
  }
  return all;
}

/** Bytes of a command. */
export function sizeOf(command) {
  return new Blob([JSON.stringify(command)]).size;
}
