// Browser client of the presence server: docs/browser.md.

import { Line, TRANSPORTS } from "./client/line.js";
import { Roster } from "./client/roster.js";

const MOST_PLACES = 20; // of a stream or poll
const RETRY_MS = 1000;

/** @typedef {import("./client/roster.js").Member} Member */
/** @typedef {"websocket" | "sse" | "longpoll"} Transport */
/**
 * @typedef {object} Options
 * @property {string | (() => string | Promise<string>)} token or what gives a fresh one
 * @property {string} [session] in place of a new one for each page load
 * @property {Transport[]} [transports] in order of preference
 * @property {boolean} [leaveOnHide] leave without grace when the page goes
 */

/** Events: `join`, `leave`, `update`, `message` with the wire event as `detail`; `sync`. */
export class Channel extends EventTarget {
  #act;

  /** @internal */
  constructor(name, members, act) {
    super();
    this.#act = act;
    /** @readonly @type {string} */
    this.name = name;
    /** By user; kept up to date. @readonly @type {Map<string, Member>} */
    this.members = members;
  }

  /** @returns {number} */
  get count() {
    return this.members.size;
  }

  /** Replace my state; offline: on return. @param {object} state @returns {Promise<void>} */
  async set(state) {
    await this.#act("set", { state });
  }

  /** @param {string} name @param {any} [data] @returns {Promise<void>} */
  async publish(name, data = null) {
    await this.#act("publish", { name, data });
  }

  /** Go, without grace. @returns {Promise<void>} */
  async leave() {
    await this.#act("leave");
  }
}

/** Events: `status`, `error`, `inbox`. What is refused rejects with an Error that has a `code`. */
export class Presence extends EventTarget {
  /** @type {"connecting" | "online" | "offline" | "closed"} */
  status = "connecting";
  /** @type {Transport | undefined} */
  transport;
  /** @type {string | undefined} */
  user;
  #line;
  #rooms = new Map(); // name -> {name, as, state, dirty, roster, waiting, channel}
  #leaving = new Set(); // names of channels of which the server does not know it yet
  #replies = new Map(); // id -> who waits for it
  #lastId = 0;
  #deaf = new AbortController();

  /** @param {string} url @param {Options} options */
  constructor(url, { token, session, transports = TRANSPORTS, leaveOnHide }) {
    super();
    if (!transports.every((name) => TRANSPORTS.includes(name))) throw new TypeError("no such transport");
    /** @type {string} */
    this.session = session ?? newSession();
    this.#line = new Line(this.#owner(session), url, token, transports);
    if (globalThis.document) this.#follow(session, leaveOnHide);
  }

  /**
   * Enter, now and after every return; resolves when the roster is here.
   * @param {string} name
   * @param {{state?: object, as?: "member" | "observer"}} [how]
   * @returns {Promise<Channel>}
   */
  async join(name, { state, as = "member" } = {}) {
    if (this.status === "closed") throw failure({ code: "unavailable", message: "closed" });
    let room = this.#rooms.get(name);
    const begun = room;
    if (!room) {
      const roster = new Roster();
      room = { name, as, roster, waiting: [] };
      room.channel = new Channel(name, roster.members, (type, more) => this.#act(room, type, more));
      this.#rooms.set(name, room);
      this.#leaving.delete(name);
    }
    const set = state && this.#act(room, "set", { state });
    if (!begun) this.#enter(room);
    await (set ?? whenIn(room));
    return room.channel;
  }

  /**
   * Any command of the protocol; resolves with the reply.
   * @param {{type: string, [field: string]: any}} command
   * @returns {Promise<any>}
   */
  async send(command) {
    if (!this.#line.link) throw failure({ code: "unavailable", message: "not connected" });
    if (new Blob([JSON.stringify(command)]).size > 16_000) throw failure({ code: "too_large", message: "over 16 kB" });
    return new Promise((resolve, reject) => {
      const done = (reply) => (reply.type === "error" ? reject(failure(reply)) : resolve(reply));
      this.#line.link.send([this.#numbered(command, done)]);
    });
  }

  /** For good; grace starts. */
  close() {
    this.#line.close();
  }

  async #act(room, type, more) {
    const { name: channel, roster } = room;
    if (this.#rooms.get(channel) !== room) throw failure({ code: "not_joined", message: "left" });
    const { link } = this.#line;
    if (type === "set") {
      room.state = more.state;
      room.dirty = !link || !roster.synced;
      if (room.dirty) return whenIn(room);
    } else if (type === "leave") {
      this.#drop(room, { code: "not_joined", message: "left" });
      if (!link) return this.#leaving.add(channel);
    }
    return this.send({ type, channel, ...more });
  }

  #enter(room) {
    if (this.#rooms.get(room.name) !== room) return;
    if (this.#line.isHttp) this.#line.replace();
    else this.#line.link?.send([this.#joinOf(room)]);
  }

  #joinOf(room) {
    const { name: channel, as, state, roster } = room;
    const command = { type: "join", channel, as, cursor: roster.cursor || null, ...(room.dirty && { state }) };
    room.dirty = false;
    return this.#numbered(command, (reply) => reply.type === "error" && this.#refused({ ...reply, channel }));
  }

  #numbered(command, done) {
    this.#replies.set(++this.#lastId, done);
    return { ...command, id: this.#lastId };
  }

  #drop({ name, waiting }, why) {
    this.#rooms.delete(name);
    for (const { reject } of waiting) reject(failure(why));
    return waiting.length;
  }

  #owner(given) {
    const client = this;
    const rooms = () => [...this.#rooms.values()];
    return {
      given,
      get session() {
        return client.session;
      },
      // What a link is told first; a stream or poll names its channels itself.
      hello: (http) => {
        const leaves = [...this.#leaving].map((channel) => this.#numbered({ type: "leave", channel }, () => {}));
        this.#leaving.clear();
        return [...leaves, ...rooms().filter(({ dirty }) => dirty || !http).map((room) => this.#joinOf(room))];
      },
      places: () => {
        for (const { name: channel } of rooms().slice(MOST_PLACES)) {
          this.#refused({ code: "limit", message: `a stream or poll has ${MOST_PLACES} channels`, channel });
        }
        return rooms().map(({ name: channel, as, roster: { cursor } }) => ({ channel, as, cursor }));
      },
      frame: (frame) => this.#take(frame),
      reply: (frame) => this.#reply(frame),
      lost: () => {
        for (const id of this.#replies.keys()) this.#reply({ type: "error", id, code: "unavailable", message: "cut off" });
        for (const room of rooms()) room.dirty = !!room.state;
      },
      changed: (detail) => {
        const { status, transport, user = this.user } = detail;
        Object.assign(this, { status, transport, user });
        if (status === "closed") {
          this.#deaf.abort();
          for (const room of rooms()) this.#drop(room, { code: "unavailable", message: status });
        }
        this.#tell("status", detail);
      },
      send: (command) => this.send(command),
    };
  }

  #reply(frame) {
    const done = this.#replies.get(frame.id);
    this.#replies.delete(frame.id);
    if (done) done(frame);
    else if (frame.type === "error") this.#refused(frame);
  }

  #take(frame) {
    const { type, channel, cursor, events, recovered } = frame;
    const room = this.#rooms.get(channel);
    if (channel === "@inbox") this.#tell("inbox", { cursor, events });
    else if (room && (type === "events" || type === "joined")) {
      this.#announce(room, room.roster.take(frame));
      if (type === "joined") this.#settle(room, recovered);
    }
    this.#reply(frame);
  }

  #announce(room, news) {
    for (const event of news) {
      const { type, user, state } = event;
      if (type === "update" && user === this.user && room.state) room.state = state; // another tab's, perhaps
      room.channel.dispatchEvent(new CustomEvent(type, { detail: event }));
    }
  }

  async #settle(room, recovered) {
    const { name: channel, roster } = room;
    for (let after; (after = roster.after) && this.#rooms.get(channel) === room; ) {
      try {
        const page = await this.send({ type: "who", channel, limit: 1000, after });
        this.#announce(room, roster.page(page, after));
      } catch {
        if (!this.#line.link) return; // there will be another snapshot
        await new Promise((done) => setTimeout(done, RETRY_MS));
      }
    }
    if (!recovered) room.channel.dispatchEvent(new CustomEvent("sync"));
    if (room.dirty) this.#act(room, "set", room).catch(() => {}); // set meanwhile
    for (const { resolve } of room.waiting.splice(0)) resolve();
  }

  #refused({ code, message, channel, retry_ms }) {
    const room = this.#rooms.get(channel);
    const synced = room?.roster.synced;
    if (code === "not_joined" && !synced) return; // of before the `join`, or after the `leave`
    if (room && (code === "unavailable" || (synced && code === "limit" && retry_ms) || (code === "not_joined" && this.#line.lapsed))) {
      room.dirty = !!room.state;
      setTimeout(() => this.#enter(room), (retry_ms ?? RETRY_MS) * (1 + Math.random()));
    } else if (!room || !this.#drop(room, { code, message })) this.#tell("error", { code, message, channel });
  }

  #follow(session, leaveOnHide) {
    const on = (target, type, act) => target.addEventListener(type, act, { signal: this.#deaf.signal });
    on(globalThis, "pagehide", () => {
      this.#line.hide(leaveOnHide && [...this.#rooms.keys()].map((channel) => ({ type: "leave", channel })));
    });
    on(globalThis, "pageshow", ({ persisted }) => {
      if (!persisted) return;
      this.session = session ?? newSession(); // nothing late of the hidden page can hurt this one
      this.#leaving.clear();
      this.#line.open();
    });
    on(globalThis, "online", () => this.#line.hurry(true));
    on(document, "resume", () => this.#line.hurry());
    on(document, "visibilitychange", () => this.#line.hurry());
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function newSession() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function whenIn({ roster, waiting, dirty }) {
  if (dirty || !roster.synced) await new Promise((resolve, reject) => waiting.push({ resolve, reject }));
}

function failure({ code, message }) {
  return Object.assign(new Error(message), { code });
}
