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
globalThis.beacons = [];
Object.defineProperty(globalThis, "navigator", { value: { sendBeacon: (...beacon) => beacons.push(beacon) } });

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

export const settled = (ms = 0) => new Promise((done) => setTimeout(done, ms));

export async function until(condition) {
  for (let n = 0; !condition(); n++) {
    if (n > 2000) throw new Error(`never: ${condition}`);
    await settled(1);
  }
}

export const member = (user, state = {}) => ({ user, info: {}, state, sessions: 1, since: 1 });
