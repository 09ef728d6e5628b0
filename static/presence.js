// See docs/browser.md.
import { pause } from "./client/backoff.js";
import { Line } from "./client/line.js";
import { Roster } from "./client/roster.js";

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
  #leaving = new Map();
  #replies = new Map();
  #lastId = 0;
  #deaf = new AbortController();

  /** @param {string} url @param {import("./client/types.js").Options} options */
  constructor(url, options) {
    super();
    const { token, session, transports, leaveOnHide } = options;
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
    const { state, as = "member" } = fitting(how);
    const leaving = this.#leaving.get(name);
    if (this.#leaving.delete(name)) await leaving;
    if (this.status === "closed") throw failure("unavailable");
    let room = this.#rooms.get(name);
    if (!room) {
      room = { name, as, state, dirty: !!state, roster: new Roster(), waiting: [] };
      room.channel = new Channel(name, room.roster.members, (type, more) => this.#act(room, type, more));
      this.#rooms.set(name, room);
      this.#enter(room);
    } else if (state) await this.#act(room, "set", { state });
    if (!room.roster.synced) await entry(room);
    return room.channel;
  }

  /** @param {import("./client/types.js").Frame} command */
  async send(command) {
    const { link } = this.#line;
    if (!link) throw failure("unavailable");
    return new Promise((resolve, reject) => {
      const done = (reply) => (reply.type === "error" ? reject(failure(reply.code, reply.message)) : resolve(reply));
      link.send([this.#numbered(fitting(command), done)]);
    });
  }

  close() {
    this.#line.close();
  }

  async #act(room, type, more) {
    const { name: channel, roster } = room;
    if (this.#rooms.get(channel) !== room) throw failure("not_joined");
    if (type === "set") {
      Object.assign(room, fitting(more), { dirty: true });
      if (!this.#line.link || !roster.synced) await entry(room);
      more = { state: room.state };
    }
    if (type !== "leave") return this.send({ type, channel, ...more });
    this.#drop(room, "not_joined");
    const left = this.#leave(channel);
    this.#leaving.set(channel, left);
    return left;
  }

  async #leave(channel) {
    do {
      const { code } = await this.send({ type: "leave", channel }).catch((error) => error);
      if (passes(code)) await pause();
      else this.#leaving.delete(channel);
    } while (this.#leaving.has(channel));
  }

  #enter(room) {
    if (this.#rooms.get(room.name) !== room) return;
    if (this.#line.isHttp) this.#line.replace();
    else this.#line.link?.send([this.#joinOf(room)]);
  }

  #joinOf(room) {
    const { name: channel, as, state, roster } = room;
    const command = { type: "join", channel, as, cursor: roster.cursor || null, ...(!roster.synced && { state }) };
    return this.#numbered(command, (reply) => reply.type === "error" && this.#refused({ ...reply, channel }));
  }

  #numbered(command, done) {
    this.#replies.set(++this.#lastId, (reply) => {
      const room = this.#rooms.get(command.channel);
      if (room && room.state === command.state && !passes(reply.code)) room.dirty = false;
      done(reply);
    });
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
      hello: (http) => rooms().flatMap((room) => (http && room.roster.synced ? [] : this.#joinOf(room))),
      places: () => {
        for (const { name: channel } of rooms().slice(20)) {
          this.#refused({ code: "limit", message: "over 20 channels", channel });
        }
        return rooms().map(({ name: channel, as, roster: { cursor } }) => ({ channel, as, cursor }));
      },
      take: (frame) => this.#take(frame),
      reply: (frame) => this.#reply(frame),
      lost: () => {
        for (const id of this.#replies.keys()) this.#reply({ type: "error", id, code: "unavailable" });
      },
      changed: (detail) => {
        const { status, transport, user = this.user } = detail;
        Object.assign(this, { status, transport, user });
        if (status === "closed") {
          this.#deaf.abort();
          this.#leaving.clear();
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
    this.#reply(frame);
    if (channel === "@inbox") this.#tell("inbox", { cursor, events });
    else if (room && (type === "events" || type === "joined")) {
      this.#announce(room, room.roster.take(frame));
      if (recovered) this.#entered(room);
      else if (room.roster.after && !events) this.#readRest(room);
    }
  }

  #announce(room, news) {
    for (const event of news) {
      const { type, user, state, seq } = event;
      if (seq && type === "update" && user === this.user && !room.dirty) room.state = state; // perhaps another tab's
      room.channel.dispatchEvent(new CustomEvent(type, { detail: event }));
      if (type === "sync") this.#entered(room);
    }
  }

  #entered(room) {
    const { name: channel, state, dirty, roster, waiting } = room;
    const lost = state && JSON.stringify(roster.members.get(this.user)?.state) === "{}";
    if (dirty || lost) this.send({ type: "set", channel, state }).catch(() => {});
    for (const { resolve } of waiting.splice(0)) resolve();
  }

  async #readRest(room) {
    const { name: channel, roster } = room;
    for (let after; (after = roster.after) && this.#rooms.get(channel) === room; ) {
      try {
        this.#announce(room, roster.page(await this.send({ type: "who", channel, limit: 1000, after }), after));
      } catch {
        if (!this.#line.link) return; // there will be another snapshot
        await pause();
      }
    }
  }

  #refused({ code, message, channel, retry_ms }) {
    const room = this.#rooms.get(channel);
    const synced = room?.roster.synced;
    const { isHttp, aliveAt, link } = this.#line;
    if (code === "not_joined" && !synced) return; // of before the `join`, or after the `leave`
    const lapsed = code === "not_joined" && isHttp && Date.now() - aliveAt > link?.ttl_ms;
    if (room && (lapsed || code === "unavailable" || (synced && code === "limit" && retry_ms))) {
      pause(retry_ms).then(() => this.#enter(room));
    } else if (!room || !this.#drop(room, code, message)) this.#tell("error", { code, message, channel });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function entry({ waiting }) {
  return new Promise((resolve, reject) => waiting.push({ resolve, reject }));
}

function fitting(value) {
  if (JSON.stringify(value).length > 16_000) throw failure("too_large");
  return value;
}

function passes(code) {
  return code === "unavailable" || code === "limit";
}

function failure(code, message = code) {
  return Object.assign(new Error(message), { code });
}
