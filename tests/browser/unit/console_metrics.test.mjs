import assert from "node:assert/strict";
import { test } from "node:test";

import { histogram, nodeOf, parse, quantile, Readings, since, total } from "../../../static/console/metrics.js";

function page(node, counts, sessions = 0) {
  const bounds = ["0.1", "0.25", "1.0", "+Inf"];
  let below = 0;
  return [
    "# HELP presence_node_info Whose page this is",
    "# TYPE presence_node_info gauge",
    `presence_node_info{node="${node}",version="0.1.0"} 1.0`,
    `presence_sessions{transport="websocket"} ${sessions}`,
    'presence_sessions{transport="sse"} 0.0',
    ...bounds.map((bound, at) => `presence_offline_lag_seconds_bucket{le="${bound}"} ${(below += counts[at])}`),
    `presence_offline_lag_seconds_count ${below}`,
    "",
  ].join("\n");
}

const lag = (text) => histogram(parse(text), "presence_offline_lag_seconds");

test("a page is read with its labels, escapes and infinities", () => {
  const samples = parse('a{x="1",y="q\\"\\\\\\n}"} 2.5e3\n# b 1\nb +Inf\nnonsense\nc NaN 123\n');

  assert.deepEqual([...samples.keys()], ["a", "b", "c"]);
  assert.equal(samples.get("a")[0].labels.get("y"), 'q"\\\n}');
  assert.equal(samples.get("a")[0].value, 2500);
  assert.equal(samples.get("b")[0].value, Infinity);
  assert.ok(Number.isNaN(samples.get("c")[0].value));
});

test("a quantile lies on a straight line inside its bucket", () => {
  const read = lag(page("n", [10, 10, 0, 0]));

  assert.equal(quantile(0.5, read), 0.1);
  assert.ok(Math.abs(quantile(0.75, read) - 0.175) < 1e-9);
  assert.equal(quantile(0.99, lag(page("n", [0, 0, 0, 5]))), 1, "beyond the last bound: that bound");
  assert.ok(Number.isNaN(quantile(0.5, lag(page("n", [0, 0, 0, 0])))));
  assert.ok(Number.isNaN(quantile(0.5, histogram(parse(""), "x"))));
});

test("what came in between is a difference, and everything after a start anew", () => {
  const [older, newer] = [lag(page("n", [5, 1, 0, 0])), lag(page("n", [6, 3, 0, 0]))];

  assert.equal(total(since(older, newer)), 3);
  assert.equal(total(since(newer, older)), 6);
  assert.equal(total(since(undefined, newer)), 9);
});

test("readings of different nodes are never subtracted", () => {
  const readings = new Readings(60_000);
  readings.take(parse(page("one", [100, 0, 0, 0])), 0);
  readings.take(parse(page("two", [3, 0, 0, 0])), 1000);
  assert.equal(readings.lag(1000).departures, 0, "a first reading says nothing of the last minute");

  readings.take(parse(page("one", [100, 4, 0, 0])), 2000);
  readings.take(parse(page("two", [4, 0, 0, 0])), 3000);

  assert.equal(readings.lag(3000).departures, 5);
  assert.ok(readings.lag(3000).p99 > 200);
  assert.equal(readings.lag(62_500).departures, 1, "what is older than the window has gone");
});

test("sessions are those of all nodes that are there, of the one just read as its page says", () => {
  const readings = new Readings(60_000);
  const nodes = [
    { node: "one", listening: true, sessions: { websocket: 1, sse: 2 } },
    { node: "two", listening: true, sessions: { websocket: 5, sse: 0 } },
    { node: "old", listening: false, sessions: { websocket: 9, sse: 9 } },
  ];

  const fresh = readings.take(parse(page("one", [0, 0, 0, 0], 7)), 0);

  assert.equal(fresh, nodeOf(parse(page("one", [0, 0, 0, 0]))));
  assert.deepEqual(Object.fromEntries(readings.sessions(nodes, fresh)), { websocket: 12, sse: 0 });
  assert.deepEqual(Object.fromEntries(readings.sessions(nodes, null)), { websocket: 6, sse: 2 });
});
