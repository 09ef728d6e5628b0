import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { member, settled, sockets, until } from "./browser.mjs";

const { Presence } = await import("../../../static/presence.js");

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
afterEach(() => client.close());

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
