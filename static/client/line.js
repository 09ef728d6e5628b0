// The line to the server: opening, falling back, coming back, keeping alive. What is said on it is the owner's.
// One link serves; another may be opened to replace it, which happens when that one is welcomed.

import { Backoff, refreshIn } from "./delays.js";
import { beat } from "./keeper.js";
import { batches, LongPollLink, SseLink, WebSocketLink } from "./links.js";

const LINKS = new Map([["websocket", WebSocketLink], ["sse", SseLink], ["longpoll", LongPollLink]]);
export const TRANSPORTS = [...LINKS.keys()];

const STORED = "presence-transport";
const PATIENCE = 3; // failures in a row before what worked is left: a node may just be starting again
const WELCOME_MS = 6000;
const STEADY_MS = 5000; // a link that lived so long did not fail
const PROBE_MS = 3000;
const BETTER_MS = 300_000;

export class Line {
  status = "connecting";
  token = "";
  link = null;
  next = null;
  transport;
  #backoff = new Backoff();
  #timers = new Map();
  #turn = 0; // what an older turn of opening began is not wanted any more
  #opening; // the transport that is being opened
  #trying = false; // only to see whether it works again
  #again = false; // for it was asked for too few channels
  #failures = 0;
  #refused = false; // so was the last token
  #welcome = { ping_ms: 10_000, ttl_ms: 30_000 };
  #welcomedAt = 0;
  #aliveAt = 0;
  #worker;
  #beating;

  // owner: session, places(), prelude(), welcome(frame), frame(frame), reply(frame), lost(), changed(detail), send(command)
  constructor(owner, url, ask, names) {
    this.owner = owner;
    this.base = new URL(url, globalThis.location?.href);
    this.ask = typeof ask === "function" ? ask : undefined;
    this.token = ask;
    this.names = names;
    this.worked = stored();
    this.at = Math.max(0, names.indexOf(this.worked));
  }

  /** Whether a stream or poll may have timed out: there was no sign of life for so long. */
  get lapsed() {
    return this.transport !== "websocket" && Date.now() - this.#aliveAt > this.#welcome.ttl_ms;
  }

  // ---- for the links ----

  url(path, query, scheme = "http") {
    const url = new URL(this.base);
    url.protocol = scheme + (/s:$/.test(url.protocol) ? "s" : "");
    url.pathname = url.pathname.replace(/\/$/, "") + path;
    url.search = String(new URLSearchParams([["session", this.owner.session], ...query]));
    return url.href;
  }

  async fetch(path, query, { headers, ...init }) {
    const response = await fetch(this.url(path, query), { ...init, headers: { ...headers, ...this.#bearer() } });
    if (response.status === 200) {
      this.#aliveAt = Date.now();
      return response;
    }
    const { status } = response;
    const { code, detail, retry_ms } = await response.json().catch(() => ({}));
    throw Object.assign(new Error(detail ?? `HTTP ${status}`), {
      refusal: code,
      retryMs: retry_ms ?? (1000 * Number(response.headers.get("Retry-After")) || 0),
      closeCode: !code ? 1006 : status === 401 ? 4001 : status === 429 || status >= 500 ? 4100 : 4000,
    });
  }

  receive(link, frame) {
    if (link !== this.link && link !== this.next) return;
    if (frame.type === "welcome") this.#welcomed(link, frame);
    else if (frame.type === "close") this.end(link, frame.code, frame.message);
    else if (frame.type === "reconnect") this.#after("replace", frame.in_ms, () => this.replace());
    else this.owner.frame(frame);
  }

  /** A link is over: 4000–4099 do not come back, 4200–4299 at once, everything else after a while. */
  end(link, code, message, retryMs) {
    const final = code >= 4000 && code < 4100;
    if (link === this.next) {
      this.#abandon();
      if (this.link && this.#trying && !final) return;
      if (code < 4000 && this.#fallBack() && !this.link) return this.open();
    } else if (link === this.link) {
      this.#drop();
      if (Date.now() - this.#welcomedAt > STEADY_MS) this.#backoff.reset();
      if (this.#opening && (!final || code === 4009)) return this.#say("connecting");
    } else return;
    const another = code === 4001 && this.ask && !this.#refused;
    if (another) this.#refused = true;
    if (final && !another) this.close(code, message);
    else if ((another || (code >= 4200 && code < 4300)) && this.#backoff.fresh) this.open(this.#backoff.next());
    else this.#wait(code, message, retryMs);
  }

  // ---- for the owner ----

  /** Open a link, in place of the one that serves. */
  async open(_delay, name = this.names[this.at]) {
    const turn = ++this.#turn;
    this.#stop("wait", "replace");
    this.#trying = name !== this.names[this.at];
    this.#opening = name;
    this.#again = false;
    if (!this.link) this.#say("connecting");
    try {
      const token = this.ask ? await this.ask() : this.token;
      if (turn !== this.#turn || this.status === "closed") return;
      this.token = token;
      this.next = {};
      this.next = new (LINKS.get(name))(this);
      this.#after("welcome", WELCOME_MS, () => this.end(this.next, 1006, "no welcome"));
    } catch (error) {
      if (turn !== this.#turn) return;
      if (this.next) return this.end(this.next, 1006, error.message);
      this.#opening = undefined;
      this.#wait(1006, `no token: ${error}`);
    }
  }

  /** As `open`, soon: several wishes are one. */
  replace() {
    if (this.#opening) this.#again = true;
    else this.#after("replace", 0, () => this.open(0, this.link ? this.transport : undefined));
  }

  /** The network is back, perhaps another one, or somebody looks. */
  hurry(elsewhere) {
    if (this.#timers.has("wait")) this.#after("wait", 300 * Math.random(), () => this.open());
    else if (elsewhere) this.replace();
    else this.#watch();
  }

  /** The page goes: the grace begins, or with `leaves` all ends at once. */
  hide(leaves = []) {
    const last = leaves.length || this.transport === "websocket" ? leaves : [{ type: "bye" }];
    this.#abandon();
    this.#drop();
    this.#stop(...this.#timers.keys());
    for (const batch of batches(last)) {
      globalThis.navigator?.sendBeacon?.(this.url("/v1/commands", [["token", this.token]]), JSON.stringify(batch));
    }
  }

  close(code = 1000, message = "") {
    if (this.status === "closed") return;
    this.hide();
    this.#say("closed", { code, message });
  }

  // ---- the links' lives ----

  #welcomed(link, frame) {
    const before = this.link;
    this.link = link;
    this.next = null;
    this.#stop("welcome");
    before?.close();
    if (this.transport === "websocket") this.owner.lost();
    this.transport = this.#opening;
    this.#opening = undefined;
    this.#refused = false;
    this.#failures = 0;
    this.at = this.names.indexOf(this.transport);
    store((this.worked = this.transport));
    this.#welcome = { ...this.#welcome, ...frame };
    this.#welcomedAt = this.#aliveAt = Date.now();
    this.#keep();
    this.#refreshLater();
    this.#say("online", { node: frame.node });
    this.owner.welcome(frame);
    if (this.#again) this.replace();
  }

  /** True: there is another transport to try at once. */
  #fallBack() {
    if (++this.#failures < (this.worked === this.names[this.at] ? PATIENCE : 1)) return false;
    this.#failures = 0;
    this.at = (this.at + 1) % this.names.length;
    return this.at > 0;
  }

  #wait(code, message, retryMs) {
    const delay = this.#backoff.next(retryMs);
    this.#after("wait", delay, () => this.open());
    if (!this.link) this.#say("offline", { code, message, retryInMs: Math.round(delay) });
  }

  #abandon() {
    this.#turn++;
    this.#opening = undefined;
    this.#stop("welcome");
    this.next?.close?.();
    this.next = null;
  }

  #drop() {
    const { link } = this;
    this.link = this.transport = null;
    this.#stop("tick", "probe", "better", "refresh");
    this.#worker?.terminate();
    this.#worker = null;
    clearInterval(this.#beating);
    link?.close();
    this.owner.lost();
  }

  // ---- alive ----

  #keep() {
    const { ping_ms: everyMs } = this.#welcome;
    if (this.transport !== "websocket") {
      const headers = { ...this.#bearer(), "Content-Type": "application/json" };
      const job = { url: this.url("/v1/commands", []), init: { method: "POST", headers, body: '{"type":"beat"}' }, everyMs };
      this.#beat(job, () => (this.#aliveAt = Date.now()));
    }
    this.#after("tick", everyMs, () => this.#tick());
    if (this.at) this.#after("better", BETTER_MS * (0.5 + Math.random()), () => this.open(0, this.names[0]));
  }

  #beat(job, tell) {
    const here = () => (this.#beating = beat(job, tell));
    try {
      this.#worker ??= new Worker(new URL("./keeper.js", import.meta.url), { type: "module" });
      this.#worker.onmessage = tell;
      this.#worker.onerror = here;
      this.#worker.postMessage(job);
    } catch {
      here(); // from another origin, or a policy against workers
    }
  }

  #tick() {
    this.#after("tick", this.#welcome.ping_ms, () => this.#tick());
    this.#watch();
  }

  // A page that was frozen has not read yet what is there: so ask, and look again.
  #watch() {
    const { link } = this;
    const { heardAt } = link ?? {};
    if (!(Date.now() - heardAt > link?.silenceMs(this.#welcome.ping_ms)) || this.#timers.has("probe")) return;
    if (this.transport === "websocket") link.send([{ type: "beat" }]);
    this.#after("probe", PROBE_MS, () => link.heardAt === heardAt && this.end(link, 1006, "nothing heard"));
  }

  #refreshLater() {
    const delay = this.ask ? refreshIn(this.token) : NaN;
    if (delay) this.#after("refresh", delay, () => this.#refresh());
  }

  async #refresh() {
    try {
      const token = await this.ask();
      await this.owner.send({ type: "refresh", token });
      this.token = token;
      this.#keep();
    } catch {
      // Then it is closed with 4001 in its time, and the next one brings another token.
    }
    if (this.link) this.#refreshLater();
  }

  #bearer() {
    return { Authorization: `Bearer ${this.token}` };
  }

  #say(status, more) {
    this.status = status;
    this.owner.changed({ status, transport: this.transport ?? this.#opening, ...more });
  }

  #after(name, ms, act) {
    this.#stop(name);
    const run = () => this.#timers.delete(name) && act();
    this.#timers.set(name, setTimeout(run, ms));
  }

  #stop(...names) {
    for (const name of names) {
      clearTimeout(this.#timers.get(name));
      this.#timers.delete(name);
    }
  }
}

function stored() {
  try {
    return sessionStorage.getItem(STORED);
  } catch {
    return null; // storage may be forbidden
  }
}

function store(name) {
  try {
    sessionStorage.setItem(STORED, name);
  } catch {
    // then the next page begins with the first transport
  }
}
