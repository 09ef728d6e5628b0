// Browser client of the presence server. What it does stands in docs/browser.md.

import { Line, TRANSPORTS } from "./client/line.js";
import { sizeOf } from "./client/links.js";
import { Roster } from "./client/roster.js";

const MOST_PLACES = 20; // of a stream or poll
const TOO_MANY = `a stream or poll has at most ${MOST_PLACES} channels`;
const ANSWER_MS = 20_000;
const RETRY_MS = 1000;

/** @typedef {import("./client/roster.js").Member} Member */
/** @typedef {"websocket" | "sse" | "longpoll"} Transport */
/** @typedef {"connecting" | "online" | "offline" | "closed"} Status */
/**
 * @typedef {object} Options
 * @property {string | (() => string | Promise<string>)} token a text, or what gives a fresh one
 * @property {string} [session] instead of a new one for each page load
 * @property {Transport[]} [transports] in the order of preference
 * @property {boolean} [leaveOnHide] leave at once when the page goes, without grace
 */

/** One channel. Events: `join`, `leave`, `update`, `message` (detail: the wire event), `sync`. */
export class Channel extends EventTarget {
  #act;

  /** @internal */
  constructor(name, members, act) {
    super();
    this.#act = act;
    /** @readonly @type {string} */
    this.name = name;
    /** Who is there, by user; kept up to date. @readonly @type {Map<string, Member>} */
    this.members = members;
  }

  /** @type {number} */
  get count() {
    return this.members.size;
  }

  /** Replace my state; offline it is done on return. @param {object} state @returns {Promise<void>} */
  async set(state) {
    await this.#act.set(state);
  }

  /** Tell everybody. @param {string} name @param {any} [data] @returns {Promise<void>} */
  async publish(name, data = null) {
    await this.#act.send({ type: "publish", channel: this.name, name, data });
  }

  /** Go, without grace. @returns {Promise<void>} */
  async leave() {
    await this.#act.leave();
  }
}

/** A client. Events: `status`, `error`, `inbox`. */
export class Presence extends EventTarget {
  #line;
  #session;
  #user;
  #rooms = new Map(); // name -> {name, as, state, dirty, roster, waiting, channel}
  #leaving = new Set(); // names of which the server does not know it yet
  #replies = new Map(); // id -> {resolve, reject, timer}
  #lastId = 0;
  #deaf = new AbortController();

  /** @param {string} url of the server @param {Options} options */
  constructor(url, { token, session, transports = TRANSPORTS, leaveOnHide = false }) {
    super();
    if (!transports.length || transports.some((name) => !TRANSPORTS.includes(name))) throw new TypeError(`transports: ${TRANSPORTS}`);
    this.#session = session ?? newSession();
    const client = this;
    const owner = {
      get session() {
        return client.#session;
      },
      places: () => this.#places(),
      prelude: () => [...this.#leaves(), ...this.#entered().filter((room) => room.dirty).map((room) => this.#joinOf(room))],
      welcome: (frame) => this.#welcome(frame),
      frame: (frame) => this.#take(frame),
      reply: (frame) => this.#reply(frame),
      lost: () => this.#lost(),
      changed: (detail) => this.#changed(detail),
      send: (command) => this.send(command),
    };
    queueMicrotask(() => this.#line.open());
    this.#line = new Line(owner, url, token, transports);
    if (globalThis.document) this.#follow(session, leaveOnHide);
  }

  /** @type {Status} */
  get status() {
    return this.#line.status;
  }

  /** @type {Transport | undefined} */
  get transport() {
    return this.#line.transport;
  }

  /** @type {string} */
  get session() {
    return this.#session;
  }

  /** @type {string | undefined} */
  get user() {
    return this.#user;
  }

  /**
   * Enter a channel, now and after every return; resolves when its roster is here.
   * @param {string} name
   * @param {{state?: object, as?: "member" | "observer"}} [how]
   * @returns {Promise<Channel>} rejects with an Error that has a `code`
   */
  async join(name, { state, as = "member" } = {}) {
    let room = this.#rooms.get(name);
    if (room?.roster.synced) {
      if (state !== undefined) await this.#set(room, state);
      return room.channel;
    }
    if (this.status === "closed") throw failure("unavailable", "closed");
    const begun = !room;
    if (begun) {
      if (this.#isHttp && this.#rooms.size >= MOST_PLACES) throw failure("limit", TOO_MANY);
      room = { name, as, roster: new Roster(), waiting: [] };
      const act = { set: (wish) => this.#set(room, wish), leave: () => this.#leave(room), send: (command) => this.send(command) };
      room.channel = new Channel(name, room.roster.members, act);
      this.#rooms.set(name, room);
      this.#leaving.delete(name);
    }
    if (state !== undefined) Object.assign(room, { state, dirty: true });
    if (begun) this.#enter(room);
    return waitFor(room);
  }

  /**
   * Any command of the protocol; resolves with its reply.
   * @param {{type: string, [field: string]: any}} command
   * @returns {Promise<any>} rejects with an Error that has a `code`
   */
  async send(command) {
    if (!this.#line.link) throw failure("unavailable", "not connected");
    if (sizeOf(command) > 16_000) throw failure("too_large", "a command has at most 16 KiB");
    return new Promise((resolve, reject) => this.#line.link.send([this.#numbered(command, resolve, reject)]));
  }

  /** For good; the grace starts. */
  close() {
    this.#line.close();
  }

  // ---- channels ----

  async #set(room, state) {
    if (this.#rooms.get(room.name) !== room) throw failure("not_joined", "this channel was left");
    room.state = state;
    if (room.roster.synced && this.#line.link) {
      try {
        return await this.send({ type: "set", channel: room.name, state });
      } catch (error) {
        if (error.code !== "unavailable" || this.#line.link) throw error;
      }
    }
    room.dirty = true;
    return waitFor(room);
  }

  async #leave(room) {
    const { name } = room;
    if (this.#rooms.get(name) !== room) return;
    this.#rooms.delete(name);
    this.#leaving.add(name);
    settle(room, failure("not_joined", "this channel was left"));
    if (this.#line.link) await new Promise((resolve, reject) => this.#line.link.send([this.#leaveOf(name, resolve, reject)]));
  }

  #enter(room) {
    if (this.#rooms.get(room.name) !== room || !this.#line.link) return;
    if (this.#isHttp) this.#line.replace();
    else this.#line.link.send([this.#joinOf(room)]);
  }

  get #isHttp() {
    return this.#line.link && this.#line.transport !== "websocket";
  }

  #entered() {
    return [...this.#rooms.values()];
  }

  #places() {
    return this.#entered().slice(0, MOST_PLACES).map(({ name, as, roster }) => [name, as, roster.cursor]);
  }

  #joinOf(room) {
    const { name: channel, as, state, roster } = room;
    const told = room.dirty && as === "member" ? { state } : {};
    room.dirty = false;
    const refused = ({ code, message, retryMs }) => this.#refused(room, { code, message, channel, retry_ms: retryMs });
    return this.#numbered({ type: "join", channel, as, cursor: roster.cursor || null, ...told }, () => {}, refused);
  }

  #leaveOf(channel, resolve = () => {}, reject = () => {}) {
    const done = () => resolve(this.#leaving.delete(channel));
    return this.#numbered({ type: "leave", channel }, done, (error) => (error.code === "not_joined" ? done() : reject(error)));
  }

  #leaves() {
    return [...this.#leaving].map((name) => this.#leaveOf(name));
  }

  #numbered(command, resolve, reject) {
    const id = ++this.#lastId;
    const silent = { type: "error", id, code: "unavailable", message: "no answer" };
    this.#replies.set(id, { resolve, reject, timer: setTimeout(() => this.#reply(silent), ANSWER_MS) });
    return { ...command, id };
  }

  // ---- what the line says ----

  #welcome({ user }) {
    this.#user = user ?? this.#user;
    const rooms = this.#entered();
    if (!this.#isHttp) this.#line.link.send([...this.#leaves(), ...rooms.map((room) => this.#joinOf(room))]);
    else for (const room of rooms.slice(MOST_PLACES)) this.#refused(room, { code: "limit", message: TOO_MANY, channel: room.name });
  }

  #lost() {
    for (const id of this.#replies.keys()) this.#reply({ type: "error", id, code: "unavailable", message: "cut off" });
    for (const room of this.#entered()) room.dirty = room.state !== undefined;
  }

  #changed(detail) {
    if (detail.status === "closed") {
      for (const room of this.#entered()) settle(room, failure("unavailable", "closed"));
      this.#rooms.clear();
      this.#deaf.abort();
    }
    this.#tell("status", detail);
  }

  #reply(frame) {
    const waiting = this.#replies.get(frame.id);
    this.#replies.delete(frame.id);
    clearTimeout(waiting?.timer);
    if (frame.type !== "error") waiting?.resolve(frame);
    else if (waiting) waiting.reject(failure(frame.code, frame.message, frame.retry_ms));
    else this.#refused(this.#rooms.get(frame.channel), frame);
  }

  #take(frame) {
    const room = this.#rooms.get(frame.channel);
    const { type, channel, cursor, events } = frame;
    if (channel === "@inbox") this.#tell("inbox", { cursor, events });
    else if (room && (type === "events" || type === "joined")) this.#announce(room, room.roster.take(frame));
    if (room && type === "joined") {
      if (room.roster.after) this.#readRest(room);
      else this.#isIn(room, !frame.recovered);
    }
    if (frame.id !== undefined || type === "error") this.#reply(frame);
  }

  #announce(room, events) {
    for (const event of events) {
      if (event.type === "update" && event.user === this.#user && room.state !== undefined && !room.dirty) room.state = event.state;
      room.channel.dispatchEvent(new CustomEvent(event.type, { detail: event }));
    }
  }

  #isIn(room, anew) {
    if (anew) room.channel.dispatchEvent(new CustomEvent("sync"));
    if (!room.dirty) return settle(room);
    room.dirty = false; // set while it was being joined
    return this.#set(room, room.state).then(() => settle(room), (error) => settle(room, error));
  }

  async #readRest(room) {
    const { roster, name: channel } = room;
    for (let after; (after = roster.after) && this.#rooms.get(channel) === room; ) {
      try {
        this.#announce(room, roster.page(await this.send({ type: "who", channel, limit: 1000, after }), after));
        if (!roster.after) this.#isIn(room, true);
      } catch (error) {
        if (!this.#line.link) return; // then there will be another snapshot
        await new Promise((done) => setTimeout(done, error.retryMs || RETRY_MS));
      }
    }
  }

  #refused(room, { code, message, channel, retry_ms: retryMs }) {
    const later = code === "unavailable" || (code === "limit" && retryMs && room?.roster.synced);
    if (room && (later || (code === "not_joined" && this.#line.lapsed))) {
      room.dirty = room.state !== undefined;
      setTimeout(() => this.#enter(room), (retryMs || RETRY_MS) * (1 + Math.random()));
      return;
    }
    if (channel !== undefined && !this.#rooms.delete(channel) && code === "not_joined") return; // as we wished
    if (!room || !settle(room, failure(code, message))) this.#tell("error", { code, message, channel });
  }

  // ---- the page ----

  #follow(session, leaveOnHide) {
    const on = (target, type, act) => target.addEventListener(type, act, { signal: this.#deaf.signal });
    on(globalThis, "pagehide", () => {
      this.#line.hide(leaveOnHide ? this.#entered().map(({ name: channel }) => ({ type: "leave", channel })) : []);
    });
    on(globalThis, "pageshow", ({ persisted }) => {
      if (!persisted) return;
      this.#session = session ?? newSession(); // nothing late of the hidden page can hurt this one
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

function waitFor(room) {
  return new Promise((resolve, reject) => room.waiting.push({ resolve, reject }));
}

// Whether anybody waited.
function settle(room, error) {
  const waiting = room.waiting.splice(0);
  for (const { resolve, reject } of waiting) error ? reject(error) : resolve(room.channel);
  return waiting.length > 0;
}

function failure(code, message, retryMs) {
  return Object.assign(new Error(message), { code, retryMs });
}
