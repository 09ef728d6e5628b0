// The demo page: who is in one channel, and what was announced. ?user= and ?channel= choose both.

import { Presence } from "/static/presence.js";

const MOST_LINES = 200;
const NAMES = ["ann", "bob", "cem", "dia", "eva", "fay", "gus", "hal", "ida", "jim", "kay", "leo", "mia", "noa"];

const address = new URL(location.href);
const channel = address.searchParams.get("channel") || "lobby";
const user = address.searchParams.get("user") || someName();
const $ = (id) => document.getElementById(id);

// The name stays in the address, so that a reload is the same person.
address.searchParams.set("user", user);
history.replaceState(null, "", address);
const another = new URL(address);
another.searchParams.delete("user");
$("another").href = another.href;
document.title = `${user} · Presence`;

const presence = new Presence({ token: fetchToken });
presence.join(channel);

presence.addEventListener("status", ({ detail }) => {
  $("status").textContent = [detail.status, detail.message].filter(Boolean).join(": ");
  $("status").dataset.status = detail.status;
});

presence.addEventListener("change", ({ detail }) => {
  drawMembers();
  if (!detail.recovered) addLine(Date.now(), "snapshot", `${presence.members(channel).size} here`);
  for (const event of detail.events) addLine(event.at, event.type, describe(event));
});

presence.addEventListener("failure", ({ detail }) => {
  addLine(Date.now(), "error", `${detail.code}: ${detail.message}`);
  drawMembers();
});

onSubmit("state-form", "state", (doing) => presence.setState(channel, doing ? { doing } : {}), true);
onSubmit("say-form", "say", (text) => text && presence.send({ type: "publish", channel, name: "chat", data: text }));

$("leave").addEventListener("click", async () => {
  await presence.leave(channel).catch(() => {});
  drawMembers();
  presence.close();
});

async function fetchToken() {
  const answer = await fetch(`/dev/token?${new URLSearchParams({ user })}`);
  if (!answer.ok) throw new Error(`no token: ${answer.status}`);
  return (await answer.json()).token;
}

function someName() {
  return `${NAMES[Math.floor(Math.random() * NAMES.length)]}-${Math.floor(Math.random() * 900) + 100}`;
}

function onSubmit(form, field, act, keep = false) {
  $(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = $(field).value.trim();
    if (!keep) $(field).value = "";
    await Promise.resolve(act(text)).catch(() => {}); // refusals arrive as "failure"
  });
}

function drawMembers() {
  const members = [...presence.members(channel).values()].sort((a, b) => (a.user < b.user ? -1 : 1));
  $("count").textContent = members.length;
  $("members").replaceChildren(...members.map(memberItem));
}

function memberItem(member) {
  const item = element("li", member.user === user ? "me" : "");
  item.append(element("span", "dot"), element("b", "", member.user));
  if (typeof member.state?.doing === "string") item.append(element("i", "", member.state.doing));
  if (member.user === user) item.append(element("small", "", "you"));
  return item;
}

function describe(event) {
  if (event.type === "leave") return `${event.user} (${event.reason})`;
  if (event.type === "message") return `${event.user ?? "the back end"}: ${shorten(event.data)}`;
  if (event.type === "update") return `${event.user} ${shorten(event.state?.doing ?? event.state)}`;
  return event.user;
}

function shorten(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}

function addLine(at, type, text) {
  const line = element("li", type);
  const time = element("time", "", new Date(at).toLocaleTimeString());
  line.append(time, element("b", "", type), element("span", "", text));
  $("events").prepend(line);
  while ($("events").childElementCount > MOST_LINES) $("events").lastElementChild.remove();
}

// Names and states come from other people: they are text, never markup.
function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
