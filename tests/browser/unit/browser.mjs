// What the client needs of a browser, played for Node: a page, and WebSockets whose other end is the test.

globalThis.window = new EventTarget();
globalThis.document = new EventTarget();
globalThis.location = { href: "http://presence.test/" };
globalThis.CustomEvent ??= class extends Event {
  constructor(type, { detail }) {
    super(type);
    this.detail = detail;
  }
};
Object.defineProperty(globalThis, "navigator", { value: { sendBeacon: () => true } });

// Back-off passes at once, and of the longer waits those that the test names; no other comes to its end.
export const clock = { passes: () => false };
const wait = globalThis.setTimeout;
globalThis.setTimeout = (act, ms = 0) => wait(act, ms < 1000 || clock.passes(ms) ? ms / 1e6 : ms);

// What answers the requests of streams and polls: (path, init) => [status, what is in the body].
export const server = { answer: () => [503, {}] };
globalThis.fetch = async (address, init) => {
  const { pathname } = new URL(address);
  const [status, content] = await server.answer(pathname, init);
  return new Response(typeof content === "string" ? content : JSON.stringify(content), { status });
};

export const forever = () => new Promise(() => {});

export const sockets = [];

globalThis.WebSocket = class {
  sent = [];
  open = true;

  constructor(url) {
    this.url = new URL(url);
    sockets.push(this);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.open = false;
  }

  tell(frame) {
    this.onmessage({ data: JSON.stringify(frame) });
  }

  welcome() {
    this.tell({ type: "welcome", user: "me", node: "n", ttl_ms: 30_000, ping_ms: 10_000 });
    return this;
  }

  end(code = 1006) {
    this.open = false;
    this.onclose({ code, reason: "" });
  }

  last(type) {
    return this.sent.findLast((command) => command.type === type);
  }

  ok(type, more) {
    this.tell({ type: "ok", id: this.last(type).id, ...more });
  }

  joined(cursor, members, more) {
    const { id, channel } = this.last("join");
    this.tell({ type: "joined", id, channel, cursor, recovered: !members, members, ...more });
  }
};

export const settled = (ms = 0) => new Promise((done) => wait(done, ms));

export async function until(condition) {
  for (let n = 0; !condition(); n++) {
    if (n > 2000) throw new Error(`never: ${condition}`);
    await settled(1);
  }
}

export const member = (user, state = {}) => ({ user, info: {}, state, sessions: 1, since: 1 });
