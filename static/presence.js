// Browser client of the presence server: one WebSocket, any number of channels, comes back by itself.
//
//   const presence = new Presence({ token: async () => (await fetch("/my/token")).text() });
//   presence.addEventListener("change", ({ detail }) => draw(presence.members(detail.channel)));
//   presence.join("room:1", { state: { mood: "awake" } });
//
// Events of the object: "status" {status, message, final}, "change" {channel, events, recovered},
// "failure" {code, message, channel}, "inbox" {cursor, events}: messages to this user (none: some were missed; send
// {type: "fetch"}, as after every "connected"). Members are Maps: a user may be called __proto__.

import { Roster } from "./roster.js";

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 30_000;
const STORED_SESSION = "presence-session";

export class Presence extends EventTarget {
  #url; #token; #session; #socket = null; #timer = null; #beatTimer = null; #refreshTimer = null;
  #attempt = 0; #opening = 0; #leastDelayMs = 0; #lastFrameAt = 0; #closed = false; #welcomed = false; #lastId = 0;
  #channels = new Map(); // name -> {as, state, roster}
  #replies = new Map(); // id -> {resolve, reject}

  // token: a text, or a function (async if it likes) that gives a fresh one each time.
  constructor({ token, url = websocketUrl(location), session = takeSession() }) {
    super();
    this.#url = url;
    this.#token = typeof token === "function" ? token : () => token;
    this.#session = session;
    globalThis.document?.addEventListener("visibilitychange", () => this.#beat());
    globalThis.addEventListener?.("online", () => this.#hurry());
    globalThis.addEventListener?.("pagehide", () => storeSession(this.#session));
    globalThis.addEventListener?.("pageshow", (event) => event.persisted && this.#resume());
    this.#open();
  }

  get session() {
    return this.#session;
  }

  // Enter a channel (or watch it: {as: "observer"}), now and after every reconnection.
  join(channel, { as = "member", state } = {}) {
    const entry = { as, state, roster: new Roster() };
    this.#channels.set(channel, entry);
    if (this.#welcomed) this.#sendJoin(channel, entry);
  }

  // Go now, without grace.
  leave(channel) {
    this.#channels.delete(channel);
    return this.send({ type: "leave", channel });
  }

  // Replace my state in a channel. Offline it is remembered and goes with the next join.
  setState(channel, state) {
    const entry = this.#channels.get(channel);
    if (entry) entry.state = state;
    return this.#welcomed ? this.send({ type: "set", channel, state }) : Promise.resolve(null);
  }

  // Who is there, as far as this client has heard: Map from user to {user, info, state, since}.
  members(channel) {
    return this.#channels.get(channel)?.roster.members ?? new Map();
  }

  // Send any command; the promise has its reply, or fails with an Error that carries `code`.
  send(command) {
    return new Promise((resolve, reject) => {
      if (!this.#welcomed) {
        reject(failure({ code: "unavailable", message: "not connected" }));
        return;
      }
      const id = ++this.#lastId;
      this.#replies.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ ...command, id }));
    });
  }

  // Close for good. Grace starts, unless the channels were left before.
  close() {
    this.#stop("closed");
  }

  async #open() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const opening = ++this.#opening;
    const token = await Promise.resolve().then(this.#token).catch(() => null);
    if (this.#closed || opening !== this.#opening) return;
    if (token === null) {
      this.#comeBack();
      return;
    }
    const query = new URLSearchParams({ session: this.#session, token });
    const socket = new WebSocket(`${this.#url}?${query}`);
    this.#forget(); // from here on the older socket, if it still lives, speaks to nobody
    this.#socket = socket;
    this.#say("connecting");
    this.#refreshBefore(token);
    socket.onmessage = ({ data }) => this.#socket === socket && this.#receive(JSON.parse(data));
    socket.onclose = ({ code }) => this.#socket === socket && this.#onClose(code);
  }

  #receive(frame) {
    this.#lastFrameAt = Date.now();
    const waiting = frame.id === undefined ? undefined : this.#replies.get(frame.id);
    this.#replies.delete(frame.id);
    if (frame.type === "error") waiting?.reject(failure(frame));
    else waiting?.resolve(frame);
    if (frame.type === "welcome") this.#onWelcome(frame);
    else if (frame.type === "joined") this.#onJoined(frame);
    else if (frame.type === "events") this.#onEvents(frame);
    else if (frame.type === "error") this.#onError(frame);
    else if (frame.type === "reconnect") this.#timer = setTimeout(() => this.#open(), frame.in_ms);
  }

  #onWelcome(frame) {
    this.#welcomed = true;
    this.#attempt = 0;
    this.#leastDelayMs = 0;
    this.#beatTimer = setInterval(() => this.#beat(2.5 * frame.ping_ms), frame.ping_ms);
    this.#say("connected", `node ${frame.node}`);
    for (const [channel, entry] of this.#channels) this.#sendJoin(channel, entry);
  }

  #sendJoin(channel, entry) {
    const join = { type: "join", channel, as: entry.as };
    if (entry.roster.cursor) join.cursor = entry.roster.cursor;
    if (entry.state !== undefined && entry.as === "member") join.state = entry.state;
    this.send(join).catch(() => {}); // a refusal is told by the "failure" event
  }

  #onJoined(frame) {
    const entry = this.#channels.get(frame.channel);
    if (!entry) return;
    entry.roster.take(frame);
    this.#tell("change", { channel: frame.channel, events: frame.events ?? [], recovered: frame.recovered });
    if (frame.truncated) this.#readRest(frame.channel, entry.roster, frame.members.at(-1)?.user);
  }

  #onEvents(frame) {
    if (frame.channel === "@inbox") this.#tell("inbox", { cursor: frame.cursor, events: frame.events });
    const entry = this.#channels.get(frame.channel);
    if (!entry) return;
    entry.roster.take(frame);
    this.#tell("change", { channel: frame.channel, events: frame.events, recovered: true });
  }

  async #readRest(channel, roster, last = "") {
    const ask = (after) => this.send({ type: "who", channel, limit: 1000, ...(after ? { after } : {}) });
    const whole = await roster.readRest(last, ask).catch(() => false);
    if (whole) this.#tell("change", { channel, events: [], recovered: true });
  }

  #onError(frame) {
    this.#leastDelayMs = frame.retry_ms ?? 0;
    if (frame.code === "not_joined" && frame.id === undefined) this.#channels.delete(frame.channel);
    this.#tell("failure", { code: frame.code, message: frame.message, channel: frame.channel });
  }

  // 4000–4099: not again in this way; 4200–4299: at once; everything else: after a while.
  #onClose(code) {
    if (code === 4001 && this.#welcomed) this.#open(); // the token ran out: the next one may serve
    else if (code >= 4000 && code < 4100) this.#stop(endings.get(code) ?? `refused (${code})`);
    else if (code >= 4200 && code < 4300) this.#open();
    else this.#comeBack();
  }

  // Full jitter: after a crash ten thousand clients must not come back in the same second.
  #comeBack() {
    this.#forget();
    const span = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.#attempt++);
    const delay = this.#leastDelayMs + Math.random() * span;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), delay);
    this.#say("waiting", `trying again in ${(delay / 1000).toFixed(1)} s`);
  }

  // The network is back: no need to wait, but not all at the same instant either.
  #hurry() {
    if (this.#closed || this.#socket || !this.#timer) return;
    this.#attempt = 0;
    this.#comeBack();
  }

  // Browsers answer the server's pings without asking the page; this is how the page notices a dead line.
  #beat(silentMs = Infinity) {
    if (!this.#welcomed) return;
    const awake = globalThis.document?.visibilityState !== "hidden"; // hidden pages get their timers late
    if (awake && Date.now() - this.#lastFrameAt > silentMs) {
      this.#socket.close();
      this.#comeBack();
      return;
    }
    this.send({ type: "beat" }).catch(() => {});
  }

  #refreshBefore(token) {
    clearTimeout(this.#refreshTimer);
    const leftMs = expiry(token) * 1000 - Date.now();
    if (!(leftMs < 2 ** 31)) return;
    this.#refreshTimer = setTimeout(() => this.#refresh(), Math.max(1000, 0.8 * leftMs));
  }

  async #refresh() {
    try {
      const token = await this.#token();
      await this.send({ type: "refresh", token });
      this.#refreshBefore(token);
    } catch {
      // Then the server closes with 4001 in its time, and the next connection brings a new token.
    }
  }

  #resume() {
    takeSession();
    if (!this.#closed) this.#open();
  }

  #forget() {
    this.#socket = null;
    this.#welcomed = false;
    clearInterval(this.#beatTimer);
    for (const { reject } of this.#replies.values()) reject(failure({ code: "unavailable", message: "cut off" }));
    this.#replies.clear();
  }

  #stop(message) {
    const socket = this.#socket;
    this.#closed = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#refreshTimer);
    this.#forget();
    socket?.close(1000);
    this.#say("stopped", message, true);
  }

  #say(status, message = "", final = false) {
    this.#tell("status", { status, message, final });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

const endings = new Map([
  [4001, "the token is missing, bad or over"],
  [4003, "disconnected by the back end"],
  [4009, "this session is open somewhere else"],
]);

function failure({ code, message }) {
  return Object.assign(new Error(message), { code });
}

function websocketUrl({ protocol, host }) {
  return `${protocol === "https:" ? "wss" : "ws"}://${host}/v1/ws`;
}

// Seconds since 1970, or NaN where the token does not tell.
function expiry(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).exp ?? NaN;
  } catch {
    return NaN;
  }
}

// A reload keeps its session: the id is stored as the page goes, and taken out as it comes. It is not stored in
// between, because a duplicated tab gets a copy of the storage, and two tabs would fight over one session.
function takeSession() {
  const stored = globalThis.sessionStorage?.getItem(STORED_SESSION);
  globalThis.sessionStorage?.removeItem(STORED_SESSION);
  return stored ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");
}

function storeSession(session) {
  globalThis.sessionStorage?.setItem(STORED_SESSION, session);
}
