import assert from "node:assert/strict";
import { test } from "node:test";

import { Roster } from "../../../static/client/roster.js";

const member = (user, state = {}) => ({ user, info: {}, state, sessions: 1, since: 1 });
const joined = (cursor, members, more = {}) => ({ type: "joined", cursor, recovered: false, members, ...more });
const join = (seq, user, state = {}) => ({ type: "join", seq, at: seq, user, info: {}, state });
const leave = (seq, user) => ({ type: "leave", seq, at: seq, user, reason: "left" });
const update = (seq, user, state) => ({ type: "update", seq, at: seq, user, state });
const message = (seq) => ({ type: "message", seq, at: seq, name: "m", data: seq });
const events = (cursor, list) => ({ type: "events", cursor, events: list });
const take = (roster, frame) => [...roster.take(frame)];
const brief = (list) => list.map(({ type, user }) => `${type} ${user}`);

function begun(...users) {
  const roster = new Roster();
  take(roster, joined("e:10", users.map((user) => member(user))));
  return roster;
}

test("the first snapshot tells of nobody", () => {
  const roster = new Roster();
  assert.deepEqual(take(roster, joined("e:3", [member("ann"), member("bob")])), [{ type: "sync" }]);
  assert.deepEqual([...roster.members.keys()], ["ann", "bob"]);
  assert.equal(roster.cursor, "e:3");
  assert.ok(roster.synced);
});

test("events are folded one by one, as they are told", () => {
  const roster = begun("ann");
  const sizes = [];
  for (const event of roster.take(events("e:13", [join(11, "bob"), update(12, "bob", { a: 1 }), leave(13, "ann")]))) {
    sizes.push([event.type, roster.members.size]);
  }
  assert.deepEqual(sizes, [["join", 2], ["update", 2], ["leave", 1]]);
  assert.deepEqual(roster.members.get("bob"), { user: "bob", info: {}, state: { a: 1 }, since: 11 });
});

test("what two connections tell is taken once", () => {
  const roster = begun();
  const first = events("e:12", [join(11, "bob"), message(12)]);
  assert.equal(take(roster, first).length, 2);
  assert.deepEqual(take(roster, first), []);
  assert.deepEqual(take(roster, events("e:13", [message(12), message(13)])), [message(13)]);
  assert.deepEqual(take(roster, { ...events("e:14", [message(13), message(14)]), recovered: true }), [message(14)]);
});

test("of a later snapshot only what differs is told", () => {
  const roster = begun("ann", "bob", "cem");
  const told = take(roster, joined("f:1", [member("bob"), member("cem", { a: 1 }), member("dia")]));
  assert.deepEqual(brief(told), ["leave ann", "update cem", "join dia", "sync undefined"]);
  assert.ok(told.every((event) => event.seq === undefined));
  assert.deepEqual([...roster.members.keys()], ["bob", "cem", "dia"]);
  assert.equal(roster.cursor, "f:1");
});

test("the Map that the page holds stays the one that is kept up to date", () => {
  const roster = begun("ann");
  const { members } = roster;
  take(roster, joined("f:1", [member("bob")]));
  assert.equal(roster.members, members);
});

test("a snapshot older than what is known changes nothing", () => {
  const roster = begun("ann");
  take(roster, events("e:11", [join(11, "bob")]));
  assert.deepEqual(take(roster, joined("e:10", [member("ann")])), []);
  assert.equal(roster.members.size, 2);
});

test("events of another epoch wait for their snapshot", () => {
  const roster = begun("ann");
  assert.deepEqual(take(roster, events("f:2", [join(2, "bob")])), []);
  assert.equal(roster.cursor, "e:10");
});

test("a long roster is read in pages, and events may overtake them", () => {
  const roster = new Roster();
  take(roster, joined("e:10", [member("a"), member("b")], { truncated: true }));
  assert.equal(roster.after, "b");
  assert.equal(roster.cursor, "", "half a roster is no base for a resume");
  assert.deepEqual(take(roster, events("e:13", [leave(11, "d"), join(12, "c"), message(13)])), [message(13)]);
  const page = { type: "who", cursor: "e:10", members: [member("d"), member("e")], next: "e" };
  assert.deepEqual([...roster.page(page, "b")], []);
  assert.equal(roster.after, "e");
  assert.deepEqual([...roster.page({ type: "who", cursor: "e:13", members: [member("f")] }, "e")], [{ type: "sync" }]);
  assert.equal(roster.after, undefined);
  assert.deepEqual([...roster.members.keys()].sort(), ["a", "b", "c", "e", "f"]);
  assert.equal(roster.cursor, "e:13");
});

test("a page that is ahead of the events waits for them, so that nothing is told twice", () => {
  const roster = begun("a");
  take(roster, joined("f:10", [member("a")], { truncated: true }));
  assert.deepEqual([...roster.page({ type: "who", cursor: "f:12", members: [member("b"), member("c")] }, "a")], []);
  assert.equal(roster.after, undefined);
  assert.equal(roster.cursor, "");
  assert.deepEqual(take(roster, events("f:11", [join(11, "b")])), []);
  assert.deepEqual(brief(take(roster, events("f:13", [join(12, "c"), leave(13, "b")]))), ["join b", "join c", "sync undefined", "leave b"]);
});

test("a page of an older snapshot is not taken", () => {
  const roster = new Roster();
  take(roster, joined("e:10", [member("a")], { truncated: true }));
  take(roster, joined("f:5", [member("a")], { truncated: true }));
  assert.deepEqual([...roster.page({ type: "who", cursor: "e:10", members: [member("ghost")] }, "a")], []);
  assert.equal(roster.after, "a");
  [...roster.page({ type: "who", cursor: "f:5", members: [] }, "a")];
  assert.deepEqual([...roster.members.keys()], ["a"]);
});

test("a page that was read before the snapshot is not taken", () => {
  const roster = new Roster();
  take(roster, joined("e:10", [member("a")], { truncated: true }));
  take(roster, joined("e:20", [member("a")], { truncated: true }));
  assert.deepEqual([...roster.page({ type: "who", cursor: "e:15", members: [member("ghost")] }, "a")], []);
  assert.equal(roster.after, "a");
});

test("users may be called like what objects have", () => {
  const names = ["__proto__", "constructor", "toString", "<img src=x onerror=alert(1)>"];
  const roster = begun(...names);
  assert.deepEqual([...roster.members.keys()], names);
  take(roster, events("e:12", [leave(11, "__proto__"), update(12, "constructor", JSON.parse('{"__proto__":1}'))]));
  assert.deepEqual([...roster.members.keys()], names.slice(1));
  assert.equal({}.polluted, undefined);
});

test("who may not see has an empty roster", () => {
  const roster = new Roster();
  take(roster, joined(":0", []));
  assert.equal(roster.members.size, 0);
  assert.equal(roster.cursor, "");
});

// A small generator with a seed, so that a failure can be seen again.
function random(seed) {
  return () => ((seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31) / 2 ** 31);
}

class Server {
  constructor(chance) {
    this.chance = chance;
    this.members = new Map();
    this.begin("e0");
  }

  begin(epoch) {
    this.epoch = epoch;
    this.log = [];
  }

  get cursor() {
    return `${this.epoch}:${this.log.length}`;
  }

  step() {
    const user = ["__proto__", ..."abcdefg"][Math.floor(this.chance() * 8)];
    const seq = this.log.length + 1;
    const known = this.members.get(user);
    const state = { n: Math.floor(this.chance() * 3) };
    if (this.chance() < 0.1) this.log.push(message(seq));
    else if (!known) this.log.push(join(seq, user, state)), this.members.set(user, member(user, state));
    else if (this.chance() < 0.5) this.log.push(leave(seq, user)), this.members.delete(user);
    else this.log.push(update(seq, user, state)), this.members.set(user, member(user, state));
  }

  page(after, size) {
    const users = [...this.members.keys()].sort().filter((user) => after === undefined || user > after);
    const members = users.slice(0, size).map((user) => this.members.get(user));
    return { cursor: this.cursor, members, next: users.length > size ? members.at(-1).user : undefined };
  }
}

// The page's own view, made of nothing but what it was told since the first sync.
function follow(view, told) {
  for (const { type, user, state } of told) {
    if (type === "leave") assert.ok(view.delete(user), `${user} left, who was not there`);
    else if (type === "join") assert.ok(!view.has(user) && view.set(user, state), `${user} joined twice`);
    else if (type === "update") assert.ok(view.has(user) && view.set(user, state), `${user} changed, who was not there`);
  }
}

const states = (members) => [...members.values()].map(({ user, state }) => `${user}=${state.n}`).sort();

test("however it comes, what was told and what is kept is what is there", () => {
  for (let seed = 1; seed <= 400; seed++) {
    const chance = random(seed);
    const server = new Server(chance);
    const roster = new Roster();
    let view;
    let seen = 0;
    const hear = (news) => {
      const told = [...news];
      if (view) follow(view, told);
      else if (roster.synced) view = new Map([...roster.members].map(([user, { state }]) => [user, state]));
    };
    const snapshot = () => {
      const page = server.page(undefined, 3);
      hear(roster.take(joined(page.cursor, page.members, { truncated: page.next !== undefined })));
      seen = server.log.length;
    };
    const catchUp = () => {
      const from = Math.max(0, seen - Math.floor(chance() * 3)); // some of it again
      if (server.log.length) hear(roster.take(events(server.cursor, server.log.slice(from))));
      seen = server.log.length;
    };
    snapshot();
    for (let round = 0; round < 30; round++) {
      for (let n = chance() * 4; n > 0; n--) server.step();
      const what = chance();
      if (what < 0.05) server.begin(`e${round + 1}`), snapshot();
      else if (what < 0.15) snapshot();
      else if (what < 0.6) catchUp();
      else if (roster.after !== undefined) hear(roster.page(server.page(roster.after, 3), roster.after));
    }
    while (roster.after !== undefined) hear(roster.page(server.page(roster.after, 3), roster.after));
    catchUp();
    assert.deepEqual(states(roster.members), states(server.members), `seed ${seed}`);
    assert.deepEqual([...view].map(([user, { n }]) => `${user}=${n}`).sort(), states(server.members), `seed ${seed}`);
  }
});
