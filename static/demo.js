// The demo page: who is in one channel, and what was announced. ?user= and ?channel= choose both, ?transport= the way.

import { Announcer } from "./demo/announcer.js";
import { Clock, Deadlines } from "./demo/deadlines.js";
import { People } from "./demo/people.js";
import { byId, element, say, shorten } from "./pages/dom.js";
import { clock, happening, milliseconds, span } from "./pages/words.js";
import { Presence } from "./presence.js";

const MOST_LINES = 100;
const KEPT = 20;
const TRIP_MS = 3000;
const WAYS = new Map([["websocket", "WebSocket"], ["sse", "event stream"], ["longpoll", "long-poll"]]);
const NAMES = ["Ann", "Bo", "Cem", "Dia", "Eva", "Fay", "Gus", "Hal", "Ida", "Jim", "Kay", "Leo", "Mia", "Noa"];

const address = new URL(location.href);
const name = address.searchParams.get("channel") || "lobby";
const user = address.searchParams.get("user") || someName();
const way = address.searchParams.get("transport");
const now = () => performance.timeOrigin + performance.now();

// The name stays in the address, so that a reload is the same person; a second tab is somebody else.
address.searchParams.set("user", user);
history.replaceState(null, "", address);
const another = new URL(address);
another.searchParams.delete("user");
byId("another").href = another.href;
for (const transport of ["sse", "longpoll"]) {
  const by = new URL(another);
  by.searchParams.set("transport", transport);
  byId(`by-${transport}`).href = by.href;
}
document.title = `${user} · Presence`;
say(byId("channel"), shorten(name, 80));

const announcer = new Announcer(byId("announce"));
const theirClock = new Clock();
const deadlines = new Deadlines();
const people = new People(byId("members"), user, (one) => deadlines.left(one, theirClock.at(now())));
const trips = [];
const news = [];
let channel = null; // while this tab is in it
let lostAt = null; // when the connection was lost, while it is

const client = new Presence(location.origin, { token: fetchToken, ...(way ? { transports: [way] } : {}) });
client.addEventListener("status", ({ detail }) => showStatus(detail));
byId("state-form").addEventListener("submit", (event) => act(event, () => channel?.set(state())));
byId("say-form").addEventListener("submit", (event) => act(event, sayIt));
byId("leave").addEventListener("click", (event) => act(event, () => leave().then(() => byId("enter").focus())));
byId("enter").addEventListener("click", (event) => act(event, () => enter().then(() => byId("leave").focus())));
byId("copy").addEventListener("click", copyLink);
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && lookAtDeadlines());
enter().catch(explain);
lookAtDeadlines.timer = null;
lookAtDeadlines();
setInterval(measureTrip, TRIP_MS);

async function enter() {
  channel = await client.join(name, { state: state() });
  for (const type of ["join", "leave", "update", "message"]) channel.addEventListener(type, ({ detail }) => hear(detail));
  channel.addEventListener("sync", draw);
  showPlace(true);
  addLine("note", now(), "", `You came in: ${channel.count} here.`);
  draw();
}

async function leave() {
  const left = channel;
  channel = null;
  showPlace(false);
  draw();
  await left?.leave();
}

async function sayIt() {
  const field = byId("say");
  const text = field.value.trim();
  if (!text || !channel) return;
  await channel.publish("chat", text);
  field.value = "";
}

function hear(event) {
  if (!channel) return;
  if (event.type === "leave") noteLateness(event);
  if (event.at !== undefined) noteNews(event.at);
  const [who, what] = happening(event);
  addLine(event.type, event.at ?? now(), who, what);
  if (event.user !== user) announcer.tell({ type: event.type, user: shorten(who, 60), text: shorten(what, 200) });
  draw();
}

function draw() {
  const members = channel?.members ?? new Map();
  people.draw(members);
  say(byId("count"), members.size.toLocaleString("en"));
  byId("alone").hidden = members.size > 1;
  say(byId("alone"), channel ? "Only you. Open a second tab to have company." : "You are not in the channel.");
}

function showPlace(inside) {
  byId("leave").hidden = !inside;
  byId("enter").hidden = inside;
}

function showStatus({ status, transport, node, message, retryInMs }) {
  const words = { connecting: "connecting", online: "online", offline: "offline", closed: "closed" };
  const more = status === "online" ? [WAYS.get(transport) ?? transport, node && `node ${node}`] : [retryInMs > 500 && `next try in ${span(retryInMs)}`];
  say(byId("status"), [words[status], ...more].filter(Boolean).join(" · "));
  byId("status").dataset.tone = { online: "here", connecting: "wait" }[status] ?? "gone";
  lostAt = status === "online" ? null : (lostAt ?? now());
  const away = status === "offline" || status === "closed";
  byId("offline").hidden = !away;
  const why = message ? ` (${message})` : "";
  const hope = status === "closed" ? "Reload the page to come back." : "It comes back by itself.";
  if (away) say(byId("offline"), `No connection${why}. The list is as it was at ${clock(lostAt)}. ${hope}`);
}

// Once a second, or oftener where a grace is short; not in a hidden tab.
async function lookAtDeadlines() {
  clearTimeout(lookAtDeadlines.timer);
  let everyMs = 1000;
  if (document.visibilityState === "hidden") return;
  try {
    const asked = now();
    const answer = await (await fetch(`/dev/deadlines?${new URLSearchParams({ channel: name })}`)).json();
    theirClock.note(answer.now, asked, now());
    deadlines.take(answer);
    everyMs = Math.min(1000, Math.max(200, answer.grace_ms / 5));
    say(byId("grace"), span(answer.grace_ms));
    people.tick();
  } catch {
    everyMs = 2000; // the connection's own status says what is wrong
  }
  clearTimeout(lookAtDeadlines.timer);
  lookAtDeadlines.timer = setTimeout(lookAtDeadlines, everyMs);
}

async function measureTrip() {
  if (client.status !== "online" || document.visibilityState === "hidden") return;
  const began = now();
  try {
    await client.send({ type: "beat" });
  } catch {
    return; // the status says so
  }
  say(byId("trip"), milliseconds(keep(trips, now() - began)));
  say(byId("trip-note"), `a command and its answer, median of ${trips.length}`);
}

function noteNews(at) {
  const lateMs = theirClock.at(now()) - at;
  if (!Number.isFinite(lateMs) || lateMs > 60_000) return; // an event out of the history is no news
  say(byId("news"), milliseconds(Math.max(0, keep(news, lateMs))));
  say(byId("news-note"), `of happening, median of ${news.length}; give or take ${milliseconds(theirClock.errorMs)}`);
}

function noteLateness(event) {
  const lateMs = deadlines.lateness(event);
  if (lateMs !== null) say(byId("late"), milliseconds(lateMs));
}

// Add a value; the median of the last ones.
function keep(values, value) {
  values.push(value);
  if (values.length > KEPT) values.shift();
  return [...values].sort((one, other) => one - other)[values.length >> 1];
}

function addLine(type, at, who, what) {
  byId("quiet").hidden = true;
  const time = element("time", { class: "number", datetime: new Date(at).toISOString(), text: clock(at) });
  const words = element("span", {}, element("b", { class: "name", text: shorten(who, 120) }), " ", element("span", { class: "name", text: shorten(what, 240) }));
  byId("feed").prepend(element("li", { "data-type": type }, time, words));
  while (byId("feed").childElementCount > MOST_LINES) byId("feed").lastElementChild.remove();
}

async function act(event, work) {
  event.preventDefault();
  say(byId("said"), "");
  await Promise.resolve(work()).catch(explain);
}

function explain(error) {
  say(byId("said"), `That did not work: ${error.message || error.code || error}.`);
}

function state() {
  const doing = byId("state").value.trim();
  return doing ? { doing } : {};
}

async function copyLink() {
  let told = "Copied. It works in any browser on this machine; the demo answers no other.";
  await navigator.clipboard.writeText(another.href).catch(() => (told = another.href));
  say(byId("copied"), told);
}

async function fetchToken() {
  const answer = await fetch(`/dev/token?${new URLSearchParams({ user })}`);
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return (await answer.json()).token;
}

function someName() {
  return `${NAMES[Math.floor(Math.random() * NAMES.length)]}-${Math.floor(Math.random() * 900) + 100}`;
}
