import assert from "node:assert/strict";
import { test } from "node:test";

import { backoff, refreshIn } from "../../../static/client/backoff.js";

const NOW = 1_790_000_000_000;

test("the first wait is well inside any grace, and no wait is longer than half a minute", () => {
  assert.equal(backoff(0, () => 1), 500);
  assert.equal(backoff(3, () => 1), 4000);
  for (const attempt of [6, 7, 50, 5000]) assert.equal(backoff(attempt, () => 1), 30_000);
});

test("full jitter: waits fill the whole span", () => {
  assert.equal(backoff(4, () => 0), 0);
  assert.equal(backoff(4, () => 0.25), 2000);
  const waits = Array.from({ length: 1000 }, () => backoff(10));
  assert.ok(Math.min(...waits) < 3000 && Math.max(...waits) > 27_000);
});

function token(claims) {
  return `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.x`;
}

test("a token is replaced when a fifth of its time is left", () => {
  assert.equal(refreshIn(token({ exp: NOW / 1000 + 100 }), NOW), 80_000);
  assert.equal(refreshIn(token({ exp: NOW / 1000 + 100, sub: "zoë?>~" }), NOW), 80_000);
});

test("a token that is over is replaced soon, not in a circle", () => {
  assert.equal(refreshIn(token({ exp: NOW / 1000 - 100 }), NOW), 1000);
});

test("no timer is longer than setTimeout can count", () => {
  assert.equal(refreshIn(token({ exp: NOW / 1000 + 1e9 }), NOW), 2 ** 31 - 1);
});

test("what does not tell its end is not replaced", () => {
  for (const text of ["", "a.b.c", "opaque", token({}), undefined, `e30.${Buffer.from("null").toString("base64url")}.x`]) {
    assert.ok(Number.isNaN(refreshIn(text, NOW)), String(text));
  }
});
