// The nodes and their health, and the numbers at the top.

import { byId, element, say } from "../pages/dom.js";
import { count, span } from "../pages/words.js";

const SILENT_MS = 5000;
const REASONS = new Map([
  ["redis", "Redis does not answer"],
  ["subscription", "hears no events"],
  ["no_eviction", "Redis evicts keys"],
]);

// How a node is: {tone, text}.
export function health(node, now) {
  const quietMs = now - node.seen_at;
  if (!node.listening) return { tone: "gone", text: `gone: last seen ${span(quietMs)} ago` };
  if (quietMs > SILENT_MS) return { tone: "gone", text: `silent for ${span(quietMs)}` };
  if (node.draining) return { tone: "wait", text: "draining" };
  if (!node.ready) {
    const why = [...REASONS].filter(([name]) => node[name] === false).map(([, text]) => text);
    return { tone: "gone", text: why.join(", ") || "not ready" };
  }
  return { tone: "here", text: node.keyspace_events === false ? "ready, without expiry notices" : "ready" };
}

export function drawNodes({ now, nodes }) {
  const rows = nodes.map((node) => nodeRow(node, now));
  byId("nodes").replaceChildren(...rows);
  const ready = nodes.filter((node) => health(node, now).tone === "here").length;
  say(byId("total-nodes"), `${ready} / ${nodes.length}`);
}

function nodeRow(node, now) {
  const { tone, text } = health(node, now);
  const sessions = Object.entries(node.sessions ?? {});
  const all = sessions.reduce((total, [, number]) => total + number, 0);
  const about = [count(all, "session"), `up ${span(now - node.started_at)}`, node.version ?? ""];
  if (node.self) about.push("answers this page");
  return element("li", {},
    element("code", { text: node.node }),
    element("span", { class: "chip", "data-tone": tone, text }),
    element("small", { class: "number", text: about.filter(Boolean).join(" · ") }));
}
