// See docs/browser.md.
import { Line, LINKS } from "./client/line.js";
import { Roster } from "./client/roster.js";

const MOST_PLACES = 20;
const RETRY_MS = 1000;

/** Events: `join`, `leave`, `update`, `message` with the wire event as `detail`; `sync`. */
export class Channel extends EventTarget {
  #act;

  /** @internal */
  constructor(name, members, act) {
    super();
    this.#act = act;
    /** @readonly @type {string} */
    this.name = name;
    /** @readonly @type {Map<string, import("./client/types.js").Member>} */
    this.members = members;
  }

  get count() {
    return this.members.size;
  }

  /** @param {object} state */
  async set(state) {
    await this.#act("set", { state });
  }

  /** @param {string} name @param {any} [data] */
  async publish(name, data = null) {
    await this.#act("publish", { name, data });
  }

  async leave() {
    await this.#act("leave");
  }
}

/** Events: `status`, `error`, `inbox`. */
export class Presence extends EventTarget {
  /** @type {import("./client/types.js").Status} */
  status = "connecting";
  /** @type {import("./client/types.js").Transport | undefined} */
  transport;
  /** @type {string | undefined} */
  user;
  #line;
  #rooms = new Map();
  #later = [];
  #replies = new Map();
  #lastId = 0;
  #deaf = new AbortController();

  /** @param {string} url @param {import("./client/types.js").Options} options */
  constructor(url, options) {
    super();
    const { token, session, transports = [...LINKS.keys()], leaveOnHide } = options;
    if (!transports.every((name) => LINKS.has(name))) throw new TypeError("no such transport");
    this.#line = new Line(this.#owner(), url, token, transports, session);
    const on = (target, type, act) => target.addEventListener(type, act, { signal: this.#deaf.signal });
    on(window, "pagehide", () => {
      this.#line.hide(leaveOnHide && [...this.#rooms.keys()].map((channel) => ({ type: "leave", channel })));
    });
    on(window, "pageshow", ({ persisted }) => persisted && this.#line.show());
    on(window, "online", () => this.#line.hurry());
    on(document, "visibilitychange", () => this.#line.hurry());
  }

  /** @returns {string} */
  get session() {
    return this.#line.session;
  }

  /** @param {string} name @param {import("./client/types.js").How} [how] @returns {Promise<Channel>} */
  async join(name, how = {}) {
    const { state, as = "member" } = how;
    if (this.status === "closed") throw failure("unavailable");
    let room = this.#rooms.get(name);
    if (!room) {
      room = { name, as, state, dirty: !!state, roster: new Roster(), waiting: [] };
      room.channel = new Channel(name, room.roster.members, (type, more) => this.#act(room, type, more));
      this.#rooms.set(name, room);
      this.#enter(room);
    } else if (state) await this.#act(room, "set", { state });
    await whenIn(room);
    return room.channel;
  }

  /** @param {import("./client/types.js").Frame} command */
  async send(command) {
    const { link } = this.#line;
    if (!link) throw failure("unavailable");
    if (new Blob([JSON.stringify(command)]).size > 16_000) throw failure("too_large");
    return new Promise((resolve, reject) => {
      const done = (reply) => (reply.type === "error" ? reject(failure(reply.code, reply.message)) : resolve(reply));
      link.send([this.#numbered(command, done)]);
    });
  }

  close() {
    this.#line.close();
  }

  async #act(room, type, more) {
    const { name: channel, roster } = room;
    const { link } = this.#line;
    const command = { type, channel, ...more };
    if (this.#rooms.get(channel) !== room) throw failure("not_joined");
    if (type === "set") {
      room.state = more.state;
      room.dirty = !link || !roster.synced;
      if (room.dirty) return whenIn(room);
    } else if (type === "leave") {
      this.#drop(room, "not_joined");
      if (!link) return this.#later.push(command);
    }
    return this.send(command);
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

  #drop({ name, waiting }, code, message) {
    this.#rooms.delete(name);
    for (const { reject } of waiting) reject(failure(code, message));
    return waiting.length;
  }

  #owner() {
    const rooms = () => [...this.#rooms.values()];
    return {
      hello: (http) => {
        const joins = rooms().filter(({ dirty }) => dirty || !http);
        return [...this.#later.splice(0), ...joins.map((room) => this.#joinOf(room))];
      },
      places: () => {
        for (const { name: channel } of rooms().slice(MOST_PLACES)) {
          this.#refused({ code: "limit", message: `over ${MOST_PLACES} channels`, channel });
        }
        return rooms().map(({ name: channel, as, roster: { cursor } }) => ({ channel, as, cursor }));
      },
      take: (frame) => this.#take(frame),
      reply: (frame) => this.#reply(frame),
      lost: () => {
        for (const id of this.#replies.keys()) this.#reply({ type: "error", id, code: "unavailable" });
        for (const room of rooms()) room.dirty = !!room.state;
      },
      changed: (detail) => {
        const { status, transport, user = this.user } = detail;
        Object.assign(this, { status, transport, user });
        if (status === "closed") {
          this.#deaf.abort();
          for (const room of rooms()) this.#drop(room, detail.code === 4001 ? "unauthorized" : "unavailable");
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
      if (recovered) this.#entered(room);
      else if (room.roster.after && !events) this.#readRest(room);
    }
    this.#reply(frame);
  }

  #announce(room, news) {
    for (const event of news) {
      const { type, user, state, seq } = event;
      if (type === "update" && user === this.user && room.state) room[seq ? "state" : "dirty"] = state;
      room.channel.dispatchEvent(new CustomEvent(type, { detail: event }));
      if (type === "sync") this.#entered(room);
    }
  }

  #entered(room) {
    if (room.dirty) room.channel.set(room.state).catch(() => {});
    for (const { resolve } of room.waiting.splice(0)) resolve();
  }

  async #readRest(room) {
    const { name: channel, roster } = room;
    for (let after; (after = roster.after) && this.#rooms.get(channel) === room; ) {
      try {
        this.#announce(room, roster.page(await this.send({ type: "who", channel, limit: 1000, after }), after));
      } catch {
        if (!this.#line.link) return; // there will be another snapshot
        await new Promise((done) => setTimeout(done, RETRY_MS));
      }
    }
  }

  #refused({ code, message, channel, retry_ms }) {
    const room = this.#rooms.get(channel);
    const synced = room?.roster.synced;
    const { isHttp, aliveAt, ttl_ms } = this.#line;
    if (code === "not_joined" && !synced) return; // of before the `join`, or after the `leave`
    const lapsed = code === "not_joined" && isHttp && Date.now() - aliveAt > ttl_ms;
    if (room && (lapsed || code === "unavailable" || (synced && code === "limit" && retry_ms))) {
      room.dirty = !!room.state;
      setTimeout(() => this.#enter(room), (retry_ms ?? RETRY_MS) * (1 + Math.random()));
    } else if (!room || !this.#drop(room, code, message)) this.#tell("error", { code, message, channel });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

async function whenIn({ roster, waiting, dirty }) {
  if (dirty || !roster.synced) await new Promise((resolve, reject) => waiting.push({ resolve, reject }));
}

function failure(code, message = code) {
  return Object.assign(new Error(message), { code });
}
