// One user: where they are, when they were last seen, and the way to take them out.

import { avatar, byId, element, say, shorten } from "../pages/dom.js";
import { clock, count, span } from "../pages/words.js";
import { explain } from "./api.js";
import { Poller } from "./poller.js";

const EVERY_MS = 3000;
const MOST_CHANNELS = 100;

export class User {
  #api; #name; #poller;
  #aborter = new AbortController();

  constructor(api, name, told) {
    this.#api = api;
    this.#name = name;
    this.#poller = new Poller((current) => this.#read(current), EVERY_MS, (error) => {
      this.#say(explain(error), "gone");
      told(error);
    });
    const options = { signal: this.#aborter.signal };
    byId("disconnect").addEventListener("click", () => this.#ask(), options);
    byId("confirm-no").addEventListener("click", () => byId("confirm").close(), options);
    byId("confirm-yes").addEventListener("click", () => this.#disconnect(), options);
  }

  start() {
    say(byId("user-name"), this.#name);
    byId("user-avatar").replaceChildren(avatar(this.#name));
    byId("user-facts").replaceChildren();
    byId("user-channels").replaceChildren();
    byId("disconnect").disabled = true;
    this.#say("", "");
    byId("user").hidden = false;
    this.#poller.start();
  }

  stop() {
    this.#poller.stop();
    this.#aborter.abort();
    byId("confirm").close();
    byId("user").hidden = true;
  }

  async #read(current) {
    const answer = await this.#api.get(["users", this.#name]);
    if (!current()) return;
    byId("user-facts").replaceChildren(
      element("span", { class: "chip", "data-tone": answer.online ? "here" : "wait", text: answer.online ? "online" : "offline" }),
      element("span", { class: "quiet", text: `${count(answer.sessions, "session")} · ${lastSeen(answer.last_seen)}` }));
    const links = answer.channels.slice(0, MOST_CHANNELS).map((channel) => element("li", {},
      element("a", { class: "name", href: `#/channels/${encodeURIComponent(channel)}`, text: shorten(channel, 120) })));
    if (answer.channels.length > MOST_CHANNELS) {
      links.push(element("li", { class: "quiet", text: `and ${count(answer.channels.length - MOST_CHANNELS, "channel")} more` }));
    }
    byId("user-channels").replaceChildren(...links);
    byId("disconnect").disabled = !answer.online;
  }

  #ask() {
    say(byId("confirm-name"), shorten(this.#name, 120));
    byId("confirm").showModal();
  }

  async #disconnect() {
    byId("confirm").close();
    try {
      const { sessions } = await this.#api.post(["users", this.#name, "disconnect"], {});
      this.#say(`${count(sessions, "session")} ended.`, "");
    } catch (error) {
      this.#say(error.status === 403 ? "This key may only read: it disconnects nobody." : explain(error), "gone");
    }
    this.#poller.hurry();
  }

  #say(text, tone) {
    byId("user-said").dataset.tone = tone;
    say(byId("user-said"), text);
  }
}

// By the reader's clock: good to the second where both clocks are.
function lastSeen(at) {
  if (at === null) return "last seen: not known";
  return `last seen ${span(Date.now() - at)} ago, at ${clock(at)}`;
}
