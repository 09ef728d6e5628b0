// One channel: who is in it, and what happens there.

import { avatar, byId, element, say, shorten } from "../pages/dom.js";
import { clock, count, happening, span } from "../pages/words.js";
import { explain } from "./api.js";
import { Poller } from "./poller.js";

const ROSTER_MS = 2000;
const EVENTS_MS = 1000;
const ROWS = 50;
const MOST_EVENTS = 200;

export class Channel {
  #api; #name; #roster; #feed; #cursor; #pages = [""]; #heard = false;
  #aborter = new AbortController();

  constructor(api, name, told) {
    this.#api = api;
    this.#name = name;
    const failed = (error) => {
      say(byId("channel-said"), explain(error));
      told(error);
    };
    this.#roster = new Poller((current) => this.#readRoster(current), ROSTER_MS, failed);
    this.#feed = new Poller((current) => this.#readEvents(current), EVENTS_MS, failed);
    const options = { signal: this.#aborter.signal };
    byId("roster-before").addEventListener("click", () => this.#turn(() => this.#pages.pop()), options);
    byId("roster-after").addEventListener("click", (event) => this.#turn(() => this.#pages.push(event.currentTarget.dataset.next)), options);
  }

  start() {
    say(byId("channel-name"), this.#name);
    say(byId("channel-said"), "Reading …");
    byId("roster").replaceChildren();
    byId("feed").replaceChildren();
    byId("channel").hidden = false;
    this.#roster.start();
    this.#feed.start();
  }

  stop() {
    this.#roster.stop();
    this.#feed.stop();
    this.#aborter.abort();
    byId("channel").hidden = true;
  }

  #turn(move) {
    move();
    this.#roster.hurry();
  }

  async #readRoster(current) {
    const after = this.#pages.at(-1);
    const answer = await this.#api.get(["channels", this.#name, "members"], { limit: ROWS, after, deadlines: true });
    if (!current() || after !== this.#pages.at(-1)) return;
    byId("roster").replaceChildren(...answer.members.map((member) => memberRow(member, answer.now)));
    byId("nobody").hidden = answer.members.length > 0;
    byId("roster-before").disabled = this.#pages.length === 1;
    byId("roster-after").disabled = answer.next === undefined;
    byId("roster-after").dataset.next = answer.next ?? "";
    byId("roster-pages").hidden = this.#pages.length === 1 && answer.next === undefined;
    say(byId("channel-said"), count(answer.count, "member"));
  }

  async #readEvents(current) {
    const limit = this.#cursor ? MOST_EVENTS : 50;
    const answer = await this.#api.get(["channels", this.#name, "events"], { limit, cursor: this.#cursor });
    if (!current()) return;
    if (!answer.recovered && this.#cursor) {
      this.#cursor = undefined;
      this.#add([element("li", { class: "cut", text: "The history was cut here: what happened meanwhile is not known." })]);
      this.#feed.hurry();
      return;
    }
    this.#cursor = answer.cursor;
    this.#add(answer.events.map(eventLine));
    byId("no-events").hidden = byId("feed").childElementCount > 0;
  }

  #add(lines) {
    const feed = byId("feed");
    feed.prepend(...lines.reverse());
    while (feed.childElementCount > MOST_EVENTS) feed.lastElementChild.remove();
  }
}

function memberRow(member, now) {
  const who = element("a", { class: "name", href: `#/users/${encodeURIComponent(member.user)}`, text: shorten(member.user, 120) });
  const about = [["state", member.state], ["info", member.info]]
    .filter(([, value]) => value && Object.keys(value).length)
    .map(([name, value]) => element("small", { class: "about" }, `${name} `, element("code", { text: shorten(JSON.stringify(value), 160) })));
  const facts = `here for ${span(now - member.since)} · ${count(member.sessions, "session")} · deadline in ${span(member.expires_at - now)}`;
  return element("li", { class: "person" }, avatar(member.user),
    element("div", {}, who, element("small", { class: "about number", text: facts }), ...about));
}

function eventLine(event) {
  const [who, what] = happening(event);
  return element("li", { "data-type": event.type },
    element("time", { class: "number", datetime: new Date(event.at).toISOString(), text: clock(event.at) }),
    element("span", {}, element("b", { class: "name", text: shorten(who, 120) }), " ", element("span", { class: "name", text: shorten(what, 300) })));
}
