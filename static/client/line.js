import { backoff, pause, refreshIn } from "./backoff.js";

const STORED = "presence-transport";
const PATIENCE = 3;
const TOKEN_MS = 30_000;
const WELCOME_MS = 6000;
const QUIET_MS = 37_000;
const BETTER_MS = 300_000;

function stored(name) {
  try {
    if (name) sessionStorage[STORED] = name;
    return sessionStorage[STORED];
  } catch {} // forbidden or full
}

export class Line {
  #timers = new Map();
  #turn = 0;
  #attempt = 0;
  #failures = 0;
  #refused = false;

  constructor(owner, base, token, names = Object.keys(LINKS), given) {
    Object.assign(this, { owner, base, token, names, given });
    this.ask = typeof token === "function" && token;
    this.worked = stored();
    this.at = Math.max(0, names.indexOf(this.worked));
    this.show();
  }

  get isHttp() {
    return (this.transport ?? this.opening) !== "websocket";
  }

  url(path, query = [], scheme = "http") {
    const url = new URL(this.base, location.href);
    url.protocol = scheme + (/s:$/.test(url.protocol) ? "s" : "");
    url.pathname = url.pathname.replace(/\/?$/, "/v1/") + path;
    url.search = new URLSearchParams([["session", this.session], ...query]);
    return url.href;
  }

  async fetch(path, query, init) {
    const response = await fetch(this.url(path, query), { ...init, headers: { ...this.#headers, ...init.headers } });
    const { status } = response;
    if (status === 200) {
      this.aliveAt = Date.now();
      return response;
    }
    const { code: refusal, detail, retry_ms } = await response.json().catch(() => ({}));
    const code = !refusal ? 1006 : status === 401 ? 4001 : status < 429 ? 4000 : 4100;
    throw Object.assign(new Error(detail ?? `HTTP ${status}`), { refusal, code, retry_ms });
  }

  take(link, frame) {
    if (link !== this.link && link !== this.next) return;
    link.silent = 0;
    const { type } = frame;
    if (type === "welcome") this.#welcomed(link, frame);
    else if (type === "close") this.end(link, frame);
    else if (type === "reconnect") this.#after("replace", frame.in_ms, () => this.open(this.transport));
    else this.owner.take(frame);
  }

  end(link, { code, message, retry_ms = 0 }) {
    const own = code === 4009 && !this.given; // a late request of ours
    const final = code >= 4000 && code < 4100 && !own;
    if (link === this.next) {
      const { opening } = this;
      this.#abandon();
      if (this.link && opening !== this.transport && !final) return this.#keep();
      if (link && !(code >= 4000) && this.#fallBack() && !this.link) return this.open();
    } else if (link === this.link) {
      this.#drop();
      if (this.opening && (!final || code === 4009)) return this.#say("connecting");
    } else return;
    const another = code === 4001 && this.ask && !this.#refused;
    if (another) this.#refused = true;
    if (final && !another) return this.close(code, message);
    if ((another || (code >= 4200 && code < 4300)) && !this.#attempt++) return this.open();
    const retryInMs = Math.round(retry_ms + backoff(this.#attempt++));
    this.#after("wait", retryInMs, () => this.open());
    if (!this.link) this.#say("offline", { code, message, retryInMs });
  }

  async open(name = this.names[this.at]) {
    if (this.closed) return;
    this.#abandon();
    this.#stop("wait", "replace");
    const turn = this.#turn;
    const limit = (ms) => this.#after("welcome", ms, () => this.end(this.next, { message: "too late" }));
    this.opening = name;
    if (!this.link) this.#say("connecting");
    limit(TOKEN_MS);
    try {
      const token = this.ask ? await this.ask() : this.token;
      if (turn !== this.#turn) return;
      this.token = token;
      this.next = {};
      limit(WELCOME_MS);
      this.next = new LINKS[name](this);
    } catch ({ message }) {
      if (turn === this.#turn) this.end(this.next, { message });
    }
  }

  replace() {
    if (this.link || this.next) this.#after("replace", 0, () => this.open(this.opening ?? this.transport));
  }

  hurry() {
    if (this.#timers.has("wait")) this.#after("wait", backoff(0), () => this.open());
    else if (this.link) {
      this.link.silent = 2;
      this.#tick();
    }
  }

  hide(leaves) {
    const last = leaves || (this.isHttp ? [{ type: "bye" }] : []);
    const url = this.url("commands", [["token", this.token]]);
    this.#abandon();
    this.#drop();
    this.#stop(...this.#timers.keys());
    for (const some of chunks(last)) navigator.sendBeacon(url, JSON.stringify(some));
  }

  show() {
    this.session = this.given ?? crypto.getRandomValues(new Uint32Array(4)).join("-");
    queueMicrotask(() => this.open());
  }

  close(code, message) {
    if (this.closed) return;
    this.hide();
    this.closed = true;
    this.#say("closed", { code, message });
  }

  #welcomed(link, { user, node, idle, ttl_ms = 30_000, ping_ms = 10_000 }) {
    if (this.transport === "websocket") this.owner.lost();
    this.link?.close();
    stored((this.worked = this.transport = this.opening));
    this.at = this.names.indexOf(this.worked);
    this.next = this.opening = undefined;
    this.link = Object.assign(link, { idle, ttl_ms, ping_ms });
    this.#stop("welcome");
    this.#failures = 0;
    this.#refused = false;
    this.aliveAt = Date.now();
    this.#keep();
    this.#tick();
    this.#say("online", { node, user });
    if (!this.isHttp) link.send(this.owner.hello());
  }

  #fallBack() {
    if (++this.#failures < (this.worked === this.names[this.at] ? PATIENCE : 1)) return false;
    this.#failures = 0;
    this.at = (this.at + 1) % this.names.length;
    return this.at > 0;
  }

  #abandon() {
    this.#turn++;
    this.#stop("welcome");
    this.next?.close?.();
    this.next = this.opening = undefined;
  }

  #drop() {
    const { link } = this;
    this.link = this.transport = undefined;
    this.#stop("tick", "better", "refresh");
    this.worker?.terminate();
    link?.close();
    this.owner.lost();
  }

  #keep() {
    this.worker?.terminate();
    try {
      if (this.isHttp) {
        this.worker = new Worker(new URL("keeper.js", import.meta.url), { type: "module" });
        this.worker.onmessage = () => (this.aliveAt = Date.now());
        const init = { method: "POST", headers: this.#headers, body: '{"type":"beat"}' };
        this.worker.postMessage([this.url("commands"), init, this.link.ping_ms]);
      }
    } catch {} // forbidden: the page beats
    if (this.at) this.#after("better", BETTER_MS * (0.5 + Math.random()), () => this.open(this.names[0]));
    const refreshMs = refreshIn(this.token);
    if (this.ask && refreshMs) this.#after("refresh", refreshMs, () => this.#refresh());
  }

  // In ticks: who was frozen has not read yet what is there.
  #tick() {
    const { link, isHttp } = this;
    const { ping_ms, idle } = link;
    this.#after("tick", ping_ms, () => {
      this.#attempt = 0;
      this.#tick();
    });
    const patience = isHttp ? Math.max(3, QUIET_MS / ping_ms) : 3;
    if (!idle && link.silent++ > patience) this.end(link, { message: "silent" });
    else if (isHttp ? Date.now() - this.aliveAt > 1.5 * ping_ms : link.silent > 2) link.send([{ type: "beat" }]);
  }

  async #refresh() {
    const { link } = this;
    try {
      const token = await this.ask();
      await this.owner.send({ type: "refresh", token });
      this.token = token;
    } catch {} // 4001 will come, and the next link with another token
    if (link && link === this.link) this.#keep();
  }

  get #headers() {
    return { Authorization: `Bearer ${this.token}` };
  }

  #say(status, more) {
    this.owner.changed({ status, transport: this.transport ?? this.opening, ...more });
  }

  #after(name, ms, act) {
    this.#stop(name);
    this.#timers.set(name, setTimeout(() => this.#timers.delete(name) && act(), ms));
  }

  #stop(...names) {
    for (const name of names) {
      clearTimeout(this.#timers.get(name));
      this.#timers.delete(name);
    }
  }
}

// ---- the three wires: `send` and `close` ----

class WebSocketLink {
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
  #posted = Promise.resolve();
  #ended = new AbortController();

  constructor(line) {
    this.line = line;
    this.owner = line.owner;
    this.#begin().catch((error) => line.end(this, error));
  }

  send(commands) {
    for (const some of chunks(commands)) this.#posted = this.#posted.then(() => this.#post(some));
    return this.#posted;
  }

  close() {
    this.#ended.abort();
  }

  async #begin() {
    await this.send(this.owner.hello(true));
    if (this.owner.places().length) return this.run();
    await this.send([{ type: "beat" }]);
    this.line.take(this, { type: "welcome", idle: true });
  }

  get(query, headers) {
    query.push(...this.owner.places().flatMap(Object.entries));
    return this.line.fetch("events", query, { headers, signal: this.#ended.signal });
  }

  async #post(commands) {
    try {
      const init = { method: "POST", body: JSON.stringify(commands), signal: AbortSignal.timeout(10_000) };
      for (const reply of await (await this.line.fetch("commands", [], init)).json()) this.owner.reply(reply);
    } catch (error) {
      const { message, refusal: code = "unavailable" } = error;
      for (const { id } of commands) if (id) this.owner.reply({ type: "error", id, code, message });
      if (this === this.line.next || error.code === 4001) this.line.end(this, error);
    }
  }
}

class SseLink extends HttpLink {
  async run() {
    const { body } = await this.get([], { Accept: "text/event-stream" });
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the stream ended");
      this.silent = 0;
      const lines = (text + value).split("\n");
      text = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) this.line.take(this, JSON.parse(line.slice(5)));
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
      if (frames.some(({ type }) => type === "error")) await pause();
    }
    this.idle = true;
  }
}

export function chunks(list, size = 8) {
  return list.length ? [list.slice(0, size), ...chunks(list.slice(size), size)] : [];
}

const LINKS = { websocket: WebSocketLink, sse: SseLink, longpoll: LongPollLink };
