// Reading /metrics. Behind a proxy each reading may be of another node, and counters of different nodes must not be
// compared: what is kept is kept by node. Pure.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \d+)?$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

// Samples of the page by name: Map of lists of {labels: Map, value}.
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (!match) continue;
    const labels = new Map();
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) labels.set(name, unescape(value));
    const list = found.get(match[1]) ?? [];
    list.push({ labels, value: number(match[3]) });
    found.set(match[1], list);
  }
  return found;
}

// Whose page it is, or null.
export function nodeOf(samples) {
  return samples.get("presence_node_info")?.[0]?.labels.get("node") ?? null;
}

// By the value of one label.
export function byLabel(samples, name, label) {
  return new Map((samples.get(name) ?? []).map((sample) => [sample.labels.get(label), sample.value]));
}

// A histogram without labels: its upper bounds, and how many lie at or below each.
export function histogram(samples, name) {
  const rows = (samples.get(`${name}_bucket`) ?? []).map(({ labels, value }) => [number(labels.get("le")), value]);
  rows.sort(([one], [other]) => one - other);
  return { bounds: rows.map(([bound]) => bound), below: rows.map(([, below]) => below) };
}

// What came in between two readings of one node. After a counter began anew, all of it did.
export function since(older, newer) {
  const comparable = older && older.bounds.length === newer.bounds.length
    && newer.below.every((below, at) => below >= older.below[at]);
  return comparable ? { ...newer, below: newer.below.map((below, at) => below - older.below[at]) } : newer;
}

export function sum(histograms) {
  const [first, ...others] = histograms;
  if (!first) return { bounds: [], below: [] };
  return { ...first, below: first.below.map((below, at) => others.reduce((all, one) => all + (one.below[at] ?? 0), below)) };
}

export function total({ below }) {
  return below.at(-1) ?? 0;
}

// As Prometheus reckons: straight lines inside a bucket; beyond the last bound, that bound. NaN of nothing.
export function quantile(share, { bounds, below }) {
  const rank = share * total({ below });
  if (!(rank > 0)) return NaN;
  const at = below.findIndex((value) => value >= rank);
  if (bounds[at] === Infinity) return bounds.at(-2) ?? NaN;
  const [start, before] = at > 0 ? [bounds[at - 1], below[at - 1]] : [0, 0];
  return start + ((bounds[at] - start) * (rank - before)) / (below[at] - before);
}

// What the readings of the last while say, of whichever nodes they were.
export class Readings {
  #last = new Map(); // node -> {histogram, sessions}
  #parts = []; // {at, node, part}: what came in between two readings of one node
  #windowMs;

  constructor(windowMs) {
    this.#windowMs = windowMs;
  }

  // The first reading of a node says nothing about the last minute: it has counted since its start.
  take(samples, at) {
    const node = nodeOf(samples) ?? "";
    const lag = histogram(samples, "presence_offline_lag_seconds");
    const before = this.#last.get(node);
    if (before) this.#parts.push({ at, node, part: since(before.lag, lag) });
    this.#last.set(node, { lag, sessions: byLabel(samples, "presence_sessions", "transport") });
    return node;
  }

  // {p50, p99} in ms, how many departures and of how many nodes, within the window before `at`.
  lag(at) {
    this.#parts = this.#parts.filter((one) => one.at > at - this.#windowMs);
    const nodes = new Set(this.#parts.map(({ node }) => node));
    const all = sum(this.#parts.map(({ part }) => part));
    return { p50: 1000 * quantile(0.5, all), p99: 1000 * quantile(0.99, all), departures: total(all), nodes: nodes.size };
  }

  // Sessions by transport over `nodes` as /v1/nodes lists them; of `fresh`, the node just read, as its page says.
  sessions(nodes, fresh) {
    const sums = new Map();
    for (const { node, sessions, listening } of nodes) {
      if (!listening) continue;
      const counts = node === fresh ? this.#last.get(node).sessions : new Map(Object.entries(sessions ?? {}));
      for (const [transport, value] of counts) sums.set(transport, (sums.get(transport) ?? 0) + value);
    }
    return sums;
  }

  // Forget nodes that are no more.
  keep(nodes) {
    for (const node of this.#last.keys()) if (!nodes.some((one) => one.node === node)) this.#last.delete(node);
  }
}

function number(text) {
  if (text === "+Inf") return Infinity;
  return text === "-Inf" ? -Infinity : Number(text);
}

function unescape(text) {
  return text.replace(/\\(.)/g, (_, character) => (character === "n" ? "\n" : character));
}
