import assert from "node:assert/strict";
import { test } from "node:test";

import { ceiling, runs } from "../../../static/console/chart.js";
import { health } from "../../../static/console/nodes.js";
import { arrange, page } from "../../../static/console/pager.js";
import { pause } from "../../../static/console/poller.js";
import { happening, milliseconds, span } from "../../../static/pages/words.js";

const rows = [["b", 1], ["a", 1], ["__proto__", 9], ["Room", 3]].map(([channel, count]) => ({ channel, count }));
const names = (list) => list.map(({ channel }) => channel);

test("channels are found by any part of their name, the fullest first", () => {
  assert.deepEqual(names(arrange(rows)), ["__proto__", "Room", "a", "b"]);
  assert.deepEqual(names(arrange(rows, { order: "name" })), ["Room", "__proto__", "a", "b"]);
  assert.deepEqual(names(arrange(rows, { text: "OO" })), ["Room"]);
  assert.deepEqual(names(rows), ["b", "a", "__proto__", "Room"], "the list itself stays as it is");
});

test("a page that is not there is the nearest one", () => {
  const many = Array.from({ length: 101 }, (_, at) => at);

  assert.deepEqual(page(many, 99, 50), { rows: [100], page: 2, pages: 3, first: 101, last: 101 });
  assert.deepEqual(page(many, -1, 50).page, 0);
  assert.deepEqual(page([], 3, 50), { rows: [], page: 0, pages: 1, first: 0, last: 0 });
});

test("arranging grows about as the list does", () => {
  const many = Array.from({ length: 50_000 }, (_, at) => ({ channel: `room:${at}`, count: (at * 7919) % 100 }));
  const small = many.slice(0, 500);
  const best = (list) => {
    const once = () => {
      const began = performance.now();
      arrange(list, { text: "room" });
      return performance.now() - began;
    };
    return Math.min(...Array.from({ length: 9 }, once)); // a machine that stood still meanwhile does not count
  };
  best(small);

  assert.ok(best(many) < 2000 * Math.max(0.1, best(small)), "a quadratic one would take 10,000 times as long");
});

test("errors make the questions rarer, and the server may ask for more time", () => {
  assert.deepEqual([0, 1, 2, 99].map((failures) => pause(1000, failures)), [1000, 2000, 4000, 30_000]);
  assert.equal(pause(1000, 1, 9000), 9000);
});

test("an axis ends at a round number, and a line is broken where nothing is known", () => {
  assert.deepEqual([0, 3, 26, 250, 251, 0.004].map(ceiling), [1, 4, 40, 400, 400, 0.004]);
  const points = [1, NaN, 2, 3, undefined].map((value, at) => ({ at, value }));
  assert.deepEqual(runs(points, "value").map((run) => run.length), [1, 2]);
});

test("a node is as it says, unless it has not said anything lately", () => {
  const node = { seen_at: 10_000, listening: true, ready: true, redis: true, draining: false, keyspace_events: true };

  assert.equal(health(node, 11_000).text, "ready");
  assert.equal(health({ ...node, draining: true, ready: false }, 11_000).text, "draining");
  assert.equal(health({ ...node, ready: false, redis: false }, 11_000).text, "Redis does not answer");
  assert.match(health(node, 30_000).text, /silent for 20\u00a0s/);
  assert.match(health({ ...node, listening: false }, 12_000).text, /gone: last seen 2\u00a0s ago/);
});

test("times and events are told in words", () => {
  assert.deepEqual([400, 99_400, 100_000, 7_000_000, 300_000_000].map(span).map((text) => text.replace("\u00a0", " ")), ["0 s", "99 s", "2 min", "2 h", "3 days"]);
  assert.deepEqual([0.26, 9.96, 38.2, 1234, NaN].map(milliseconds), ["0.3 ms", "10 ms", "38 ms", "1.2 s", "–"]);
  assert.deepEqual(happening({ type: "leave", user: "ann", reason: "timeout" }), ["ann", "is gone: no sign of life"]);
  assert.deepEqual(happening({ type: "message", user: null, name: "chat", data: "hi" }), ["the back end", "hi"]);
});
