import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { clock, forever, member, server, settled, sockets, until } from "./browser.mjs";

const { Presence } = await import("../../../static/presence.js");

const isPause = (ms) => ms <= 2000;

let client;
const begun = (options = {}) => {
  sockets.length = 0;
  client = new Presence("/", { token: "t", transports: ["websocket"], ...options });
  client.heard = [];
  for (const type of ["status", "error"]) client.addEventListener(type, ({ detail }) => client.heard.push(detail));
  return client;
};
const opened = async (count = 1) => {
  await until(() => sockets.length >= count);
  return sockets.at(-1).welcome();
};
afterEach(() => {
  client.close();
  clock.passes = () => false;
});

async function entered(state, options) {
  begun(options);
  const room = client.join("r", { state });
  const socket = await opened();
  socket.joined("e:1", [member("me", state)]);
  return [await room, socket];
}

test("who joins has set, published and left when the server says so", async () => {
  const [room, socket] = await entered({ a: 1 });
  const done = [];
  room.set({ a: 2 }).then(() => done.push("set"));
  await settled();
  assert.deepEqual(done, []);
  socket.ok("set");
  room.publish("m").then(() => done.push("publish"));
  await settled();
  socket.ok("publish");
  room.leave().then(() => done.push("leave"));
  await settled();
  assert.deepEqual(done, ["set", "publish"]);
  socket.ok("leave");
  await settled();
  assert.deepEqual(done, ["set", "publish", "leave"]);
  await assert.rejects(room.set({}), { code: "not_joined" });
});

test("a client that is closed at once opens nothing", async () => {
  begun().close();
  await settled(5);
  assert.deepEqual(sockets, []);
  assert.deepEqual(client.heard.map(({ status }) => status), ["closed"]);
  await assert.rejects(client.join("r"), { code: "unavailable" });
});

test("a storage that is full hinders nothing", async () => {
  globalThis.sessionStorage = new Proxy({}, { set() { throw new Error("full"); } });
  const [room] = await entered();
  delete globalThis.sessionStorage;
  assert.equal(client.status, "online");
  assert.deepEqual([...room.members.keys()], ["me"]);
});

test("a leave whose answer is lost is said again on return", async () => {
  clock.passes = isPause;
  const [room, socket] = await entered();
  const left = room.leave();
  await until(() => socket.last("leave"));
  socket.end();
  const next = await opened(2);
  await until(() => next.last("leave"));
  next.tell({ type: "error", id: next.last("leave").id, code: "not_joined", channel: "r" });
  await left;
  assert.equal(next.last("join"), undefined);
  assert.deepEqual(client.heard.filter(({ status }) => !status), []);
});

test("who leaves and comes back at once has left before", async () => {
  const [room, socket] = await entered();
  const left = room.leave();
  const back = client.join("r");
  await settled(5);
  assert.equal(socket.last("join").id, 1);
  socket.ok("leave");
  await left;
  await until(() => socket.last("join").id > 1);
  socket.joined("e:3", [member("me")]);
  assert.notEqual(await back, room);
});

test("who comes back while a leave waits has not left", async () => {
  clock.passes = isPause;
  const [room, socket] = await entered();
  socket.end();
  room.leave();
  const back = client.join("r");
  const next = await opened(2);
  await until(() => next.last("join"));
  next.joined("e:1", [member("me")]);
  await back;
  await settled(5);
  assert.equal(next.last("leave"), undefined);
});

test("after a break a state that another tab set stays, and what was forgotten is set again", async () => {
  const [, socket] = await entered({ a: 1 });
  socket.end(4200);
  const second = await opened(2);
  assert.deepEqual(second.last("join"), { type: "join", channel: "r", as: "member", cursor: "e:1", id: 2 });
  const update = { type: "update", seq: 2, at: 2, user: "me", state: { a: 2 } };
  second.joined("e:2", undefined, { events: [update] });
  await settled(5);
  assert.equal(second.last("set"), undefined);

  second.end();
  const third = await opened(3);
  third.joined("f:1", [member("me")]);
  await until(() => third.last("set"));
  assert.deepEqual(third.last("set").state, { a: 2 });
});

test("a state that is set during a break counts, whatever another tab set before", async () => {
  const [room, socket] = await entered({ a: 1 });
  socket.end();
  const done = room.set({ a: 3 });
  const next = await opened(2);
  next.joined("e:2", undefined, { events: [{ type: "update", seq: 2, at: 2, user: "me", state: { a: 2 } }] });
  await until(() => next.last("set"));
  await settled(5);
  assert.deepEqual(next.sent.filter(({ type }) => type === "set").map(({ state }) => state.a), [3, 3]);
  next.ok("set");
  await done;
});

test("a state that is refused is not said again, and throws nobody out", async () => {
  const [room, socket] = await entered({ a: 1 });
  const refused = assert.rejects(room.set({ a: 2 }), { code: "too_large" });
  await until(() => socket.last("set"));
  socket.tell({ type: "error", id: socket.last("set").id, code: "too_large", channel: "r" });
  await refused;
  socket.end();
  const next = await opened(2);
  assert.equal(next.last("join").state, undefined);
  next.joined("e:1");
  await settled(5);
  assert.equal(next.last("set"), undefined);
});

test("what no server would read is not sent: it would cut the connection, again and again", async () => {
  const [room, socket] = await entered();
  const text = "x".repeat(70_000);
  await assert.rejects(room.set({ text }), { code: "too_large" });
  await assert.rejects(room.publish("m", text), { code: "too_large" });
  await assert.rejects(client.join("other", { state: { text } }), { code: "too_large" });
  assert.equal(socket.sent.length, 1);
});

test("what waits for an answer is told when the connection is gone, and set again", async () => {
  const [room, socket] = await entered({ a: 1 });
  const refused = [room.publish("m"), room.set({ a: 2 })].map((one) => assert.rejects(one, { code: "unavailable" }));
  await until(() => socket.last("set"));
  socket.end();
  await Promise.all(refused);
  const next = await opened(2);
  next.joined("e:1");
  await until(() => next.last("set"));
  assert.deepEqual(next.last("set").state, { a: 2 });
});

test("a token function that hangs is asked again", async () => {
  clock.passes = (ms) => ms === 30_000;
  let asked = 0;
  begun({ token: () => (asked++ ? "t" : forever()) });
  await opened();
  assert.ok(client.heard.some(({ status }) => status === "offline"));
  assert.equal(client.status, "online");
});

test("a token function that fails is asked again; one that answers late is not heard", async () => {
  const answers = [];
  begun({ token: () => new Promise((...how) => answers.push(how)) });
  await until(() => answers.length === 1);
  answers[0][1](new Error("no"));
  await until(() => answers.length === 2);
  client.close();
  answers[1][0]("late");
  await settled(5);
  assert.deepEqual(sockets, []);
  assert.deepEqual(client.heard.map(({ status }) => status), ["connecting", "offline", "connecting", "closed"]);
});

test("a handover is no break: both connections are heard, each event once", async () => {
  const [room, socket] = await entered();
  const heard = [];
  room.addEventListener("message", ({ detail }) => heard.push(detail.seq));
  const say = (one, ...seqs) => {
    const events = seqs.map((seq) => ({ type: "message", seq, at: seq, name: "m", data: null }));
    one.tell({ type: "events", channel: "r", cursor: `e:${seqs.at(-1)}`, events });
  };
  socket.tell({ type: "reconnect", in_ms: 1 });
  await until(() => sockets.length === 2);
  say(socket, 2);
  const next = await opened(2);
  assert.equal(socket.open, false);
  say(socket, 3);
  next.joined("e:3", undefined, { events: [2, 3].map((seq) => ({ type: "message", seq, name: "m" })) });
  say(next, 4);
  socket.end(4009);
  assert.deepEqual(heard, [2, 3, 4]);
  assert.deepEqual(client.heard.map(({ status }) => status), ["connecting", "online", "online"]);
});

// ---- streams and polls ----

const welcome = { type: "welcome", user: "me", node: "n", ttl_ms: 30_000, ping_ms: 10_000 };
const snapshot = { type: "joined", channel: "r", cursor: "e:1", recovered: false, members: [] };

test("a limit of the server is no reason to stay away", async () => {
  let refusals = 0;
  server.answer = () => (refusals++ < 2 ? [429, { code: "limit", retry_ms: 1 }] : [200, [{ type: "ok" }]]);
  begun({ transports: ["longpoll"] });
  await until(() => client.status === "online");
  assert.ok(refusals > 2);
});

test("a name that is refused leaves the client as it was", async () => {
  server.answer = (path, { body }) => {
    if (path.endsWith("events")) return [400, { code: "bad_name" }];
    const reply = ({ type, id }) => (type === "join" ? { type: "error", id, code: "bad_name" } : { type: "ok", id });
    return [200, JSON.parse(body).map(reply)];
  };
  begun({ transports: ["sse"] });
  await assert.rejects(client.join(" "), { code: "bad_name" });
  await until(() => client.status === "online");
});

test("on a lesser transport the first is tried again and again", async () => {
  clock.passes = (ms) => ms >= 100_000;
  let polls = 0;
  server.answer = async (path, { body }) => {
    if (path.endsWith("events")) return [200, { next: "n", frames: polls++ ? await forever() : [welcome, snapshot] }];
    return [200, JSON.parse(body).map?.(({ id }) => ({ type: "ok", id })) ?? []];
  };
  begun({ transports: ["websocket", "longpoll"] });
  client.join("r");
  await until(() => sockets.length === 1);
  sockets[0].end();
  for (const count of [2, 3]) {
    await until(() => sockets.length === count);
    sockets.at(-1).end();
    await settled(1);
  }
  await opened(4);
  assert.equal(client.transport, "websocket");
});
