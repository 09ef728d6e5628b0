import assert from "node:assert/strict";
import { test } from "node:test";

import { gather } from "../../../static/demo/announcer.js";
import { Clock, Deadlines, hush } from "../../../static/demo/deadlines.js";
import { hue, initial } from "../../../static/pages/dom.js";

const TIMES = { grace_ms: 5000, ttl_ms: 30_000, ping_ms: 10_000 };
const members = (...rows) => rows.map(([user, expires_at]) => ({ user, expires_at }));

test("the clock is that of the quickest of the last answers", () => {
  const clock = new Clock();
  assert.ok(Number.isNaN(clock.at(0)));

  clock.note(1_000_100, 0, 200);
  clock.note(1_000_305, 300, 310);
  clock.note(1_000_900, 400, 800);

  assert.equal(clock.at(1000), 1_001_000);
  assert.equal(clock.errorMs, 5);
  for (let at = 0; at < 20; at++) clock.note(2_000_000 + at, at - 50, at + 50);
  assert.equal(clock.at(0), 2_000_000, "an old answer does not count for ever");
});

test("silence is shown only where a sign of life is overdue", () => {
  assert.equal(hush(TIMES), 5000);
  assert.equal(hush({ ...TIMES, grace_ms: 25_000 }), 15_000);
  assert.equal(hush({ ...TIMES, ping_ms: 30_000 }), 0);
});

test("what is left shrinks to nothing and is forgotten with a sign of life", () => {
  const deadlines = new Deadlines();
  assert.equal(deadlines.left("ann", 0), null);
  deadlines.take({ ...TIMES, members: members(["ann", 14_000], ["bob", 29_000], ["__proto__", 10_000]) });

  assert.deepEqual(deadlines.left("ann", 10_000), { ms: 4000, share: 0.8 });
  assert.deepEqual(deadlines.left("ann", 15_000), { ms: 0, share: 0 });
  assert.deepEqual(deadlines.left("__proto__", 9000), { ms: 1000, share: 0.2 });
  assert.equal(deadlines.left("bob", 10_000), null);
  assert.equal(deadlines.left("constructor", 10_000), null);
  deadlines.take({ ...TIMES, members: members(["ann", 40_000]) });
  assert.equal(deadlines.left("ann", 10_000), null);
});

test("a departure is late by what lies between its deadline and its announcement", () => {
  const deadlines = new Deadlines();
  deadlines.take({ ...TIMES, members: members(["ann", 14_000]) });

  assert.equal(deadlines.lateness({ user: "ann", reason: "timeout", at: 14_038 }), 38);
  assert.equal(deadlines.lateness({ user: "ann", reason: "left", at: 14_038 }), null);
  assert.equal(deadlines.lateness({ user: "ann", reason: "timeout", at: 13_000 }), null, "of an older deadline");
  assert.equal(deadlines.lateness({ user: "bob", reason: "timeout", at: 14_038 }), null);
});

test("what happened is read out in a few words, however much it was", () => {
  const joined = (user) => ({ type: "join", user });
  assert.equal(gather([joined("ann"), { type: "leave", user: "bob" }]), "ann joined. bob left.");
  assert.equal(gather(["a", "b", "c", "d"].map(joined)), "4 people joined.");
  assert.equal(gather([{ type: "message", user: "ann", text: "hi" }, { type: "update", user: "ann" }]), "ann: hi.");
});

test("a name has a first character and a colour, whatever it is", () => {
  assert.deepEqual(["ann", "👩‍👩‍👧 family", "דנה", ""].map(initial), ["A", "👩‍👩‍👧", "ד", "?"]);
  assert.ok(["", "__proto__", "ann"].map(hue).every((degrees) => degrees >= 0 && degrees < 360));
});
