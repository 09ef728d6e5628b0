// The wires. Each link has `send(commands)`, `close()` and `silent`: for so many ticks nothing was heard.

class WebSocketLink {
  silent = 0;

  constructor(line) {
    this.socket = new WebSocket(line.url("ws", [["token", line.token]], "ws"));
    this.socket.onmessage = ({ data }) => line.take(this, JSON.parse(data));
    this.socket.onclose = ({ code, reason }) => line.end(this, { code, message: reason });
  }

  send(commands) {
    for (const command of commands) this.socket.send(JSON.stringify(command));
  }

  close() {
    this.socket.close();
  }
}

class HttpLink {
  silent = 0;
  #posted = Promise.resolve();
  #ended = new AbortController();

  constructor(line) {
    this.line = line;
    this.owner = line.owner;
    this.send(this.owner.hello(true)).then(() => this.#begin()).catch((error) => line.end(this, error));
  }

  send(commands) {
    for (const some of chunks(commands, 8)) this.#posted = this.#posted.then(() => this.#post(some));
    return this.#posted;
  }

  close() {
    this.#ended.abort();
  }

  async #begin() {
    if (this.owner.places().length) return this.run();
    await this.line.fetch("commands", [], { method: "POST", body: '{"type":"beat"}' });
    this.line.take(this, { type: "welcome", idle: true }); // a `join` opens another link
  }

  get(query, headers) {
    query.push(...this.owner.places().flatMap(Object.entries));
    return this.line.fetch("events", query, { headers, signal: this.#ended.signal });
  }

  async #post(commands) {
    try {
      const init = { method: "POST", body: JSON.stringify(commands), signal: AbortSignal.timeout(10_000) };
      const replies = await (await this.line.fetch("commands", [], init)).json();
      replies.forEach((reply) => this.owner.reply(reply));
    } catch (error) {
      const { message, refusal: code = "unavailable" } = error;
      for (const { id } of commands) this.owner.reply({ type: "error", id, code, message });
      if (this === this.line.next || error.code === 4001) this.line.end(this, error);
    }
  }
}

// Read by fetch: unlike EventSource it keeps the token out of the URL, and hears why it was refused.
class SseLink extends HttpLink {
  async run() {
    const { body } = await this.get([], { Accept: "text/event-stream" });
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the stream ended");
      this.silent = 0;
      const blocks = (text + value).split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const data = /^data: ([^\n]*)/m.exec(block);
        if (data) this.line.take(this, JSON.parse(data[1]));
      }
    }
  }
}

class LongPollLink extends HttpLink {
  async run() {
    for (let since; this.owner.places().length; ) {
      const { next, frames } = await (await this.get([since ? ["since", since] : ["welcome", 1]])).json();
      since = next;
      this.silent = 0;
      for (const frame of frames) this.line.take(this, frame);
      // What is refused is refused at once, again and again.
      if (frames.some(({ type }) => type === "error")) await new Promise((done) => setTimeout(done, 1000));
    }
    this.idle = true;
  }
}

export const LINKS = new Map([["websocket", WebSocketLink], ["sse", SseLink], ["longpoll", LongPollLink]]);

export function chunks(list, size) {
  return list.length ? [list.slice(0, size), ...chunks(list.slice(size), size)] : [];
}
