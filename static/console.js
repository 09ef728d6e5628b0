// The console: asks for a key, keeps it in memory only, and shows what the back end's endpoints and /metrics say.

import { Api, explain } from "./console/api.js";
import { Channel } from "./console/channel.js";
import { Channels } from "./console/channels.js";
import { Chart } from "./console/chart.js";
import { parse, Readings } from "./console/metrics.js";
import { drawNodes } from "./console/nodes.js";
import { Poller } from "./console/poller.js";
import { User } from "./console/user.js";
import { byId, say } from "./pages/dom.js";
import { count, milliseconds } from "./pages/words.js";

const EVERY_MS = 5000;
const SPAN_MS = 10 * 60_000;
const WINDOW_MS = 60_000;
const PROMISE_MS = 250;
const TRANSPORTS = new Map([["websocket", "WebSocket"], ["sse", "event stream"], ["longpoll", "long-poll"]]);

const whole = (value) => (Number.isFinite(value) ? Math.round(value).toLocaleString("en") : "–");
const lagChart = new Chart(byId("lag"), {
  lines: [{ key: "p50", name: "Half of them within" }, { key: "p99", name: "99 % within" }],
  format: milliseconds,
  mark: { value: PROMISE_MS, name: "promised: 250 ms" },
  spanMs: SPAN_MS,
});
const sessionChart = new Chart(byId("sessions"), {
  lines: [{ key: "all", name: "Connected" }],
  format: whole,
  spanMs: SPAN_MS,
  least: 4,
});
let open = null; // {api, parts: what runs}
let detail = null; // the channel or user that is looked at

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  byId("key").value = "";
  if (!/^[\x21-\x7e]+$/.test(key)) {
    tellLogin("That is no key: it is one word, as in PRESENCE_API_KEYS.");
    return;
  }
  const api = new Api(key);
  byId("enter").disabled = true;
  try {
    await api.get(["channels"], { limit: 1 });
    enter(api);
  } catch (error) {
    // Who has the right key comes in also while Redis is away: that is when one wants to look.
    if (error.status === 503) enter(api);
    else tellLogin(error.status === 401 ? "This key is not accepted." : explain(error));
  }
  byId("enter").disabled = false;
});

byId("forget").addEventListener("click", () => leave(""));
byId("user-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const user = byId("user-field").value;
  if (user) location.hash = `#/users/${encodeURIComponent(user)}`;
});
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => (location.hash = "#/"));
window.addEventListener("hashchange", () => route(true));
// A page that comes back out of the cache must not have the key any more.
window.addEventListener("pagehide", () => leave(""));

function enter(api) {
  const channels = new Channels(api, noteError);
  open = { api, parts: [new Poller(overview(api), EVERY_MS, noteError), channels] };
  byId("gate").hidden = true;
  byId("inside").hidden = false;
  byId("forget").hidden = false;
  tellLogin("");
  for (const part of open.parts) part.start();
  route(false);
  byId("overview-title").focus();
}

function leave(message) {
  if (!open) return;
  open.api.forget();
  for (const part of open.parts) part.stop();
  detail?.stop();
  open = detail = null;
  byId("gate").hidden = false;
  byId("inside").hidden = true;
  byId("forget").hidden = true;
  setStatus("", "no key");
  tellLogin(message);
  byId("key").focus();
}

// One round of nodes and metrics.
function overview(api) {
  const readings = new Readings(WINDOW_MS);
  const points = [];
  return async (current) => {
    const [known, page] = await Promise.all([api.get(["nodes"]), api.metrics().catch(() => null)]);
    if (!current()) return;
    const at = Date.now();
    drawNodes(known);
    readings.keep(known.nodes);
    const fresh = page === null ? null : readings.take(parse(page), at);
    const sessions = readings.sessions(known.nodes, fresh);
    const lag = readings.lag(at);
    points.push({ at, all: [...sessions.values()].reduce((sum, value) => sum + value, 0), ...lag });
    while (points[0].at < at - SPAN_MS) points.shift();
    lagChart.draw(points);
    sessionChart.draw(points);
    say(byId("total-sessions"), whole(points.at(-1).all));
    say(byId("total-lag"), milliseconds(lag.p99));
    say(byId("lag-said"), lagNote(page, lag, known.nodes.length));
    say(byId("sessions-said"), byTransport(sessions));
    setStatus("here", "live");
  };
}

// Each node counts what it announced itself, and only those are known whose page was read.
function lagNote(page, { departures, nodes }, all) {
  if (page === null) return "/metrics does not answer here: ask it inside your network.";
  const whose = `by ${nodes} of ${count(all, "node")}`;
  return departures ? `${count(departures, "departure")} announced ${whose} in the last minute.` : "Nobody was announced as gone in the last minute.";
}

function byTransport(sessions) {
  const parts = [...sessions].filter(([, value]) => value).map(([name, value]) => `${whole(value)} by ${TRANSPORTS.get(name) ?? name}`);
  return parts.join(", ") || "Nobody is connected.";
}

function route(byHand) {
  if (!open) return;
  detail?.stop();
  const [, kind, name] = /^#\/(channels|users)\/(.+)$/.exec(location.hash) ?? [];
  const text = name === undefined ? null : decode(name);
  detail = text === null ? null : kind === "channels" ? new Channel(open.api, text, noteError) : new User(open.api, text, noteError);
  detail?.start();
  byId("nothing").hidden = detail !== null;
  if (detail && byHand) byId(kind === "channels" ? "channel-name" : "user-name").focus();
}

function decode(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return null;
  }
}

function noteError(error) {
  if (!open) return;
  if (error.status === 401) leave("This key is no longer accepted.");
  else if (error.status === 0 || error.status >= 500) setStatus("gone", error.status ? "Redis cannot be asked" : "no node answers");
}

function setStatus(tone, text) {
  if (tone) byId("status").dataset.tone = tone;
  else delete byId("status").dataset.tone;
  say(byId("status"), text);
}

function tellLogin(text) {
  say(byId("login-said"), text);
}
