import assert from "node:assert/strict";
import { test } from "node:test";

import { chunks } from "../../../static/client/line.js";

test("commands go in parts of a request's size, in order", () => {
  assert.deepEqual(chunks([], 8), []);
  assert.deepEqual(chunks([1, 2, 3, 4, 5], 2), [[1, 2], [3, 4], [5]]);
  assert.deepEqual(chunks([1, 2], 2), [[1, 2]]);
});
