// The channels by how many are in them. All of them are read, a page at a time; only one page is ever drawn.

import { byId, element, say, shorten } from "../pages/dom.js";
import { clock, count } from "../pages/words.js";
import { explain } from "./api.js";
import { arrange, page } from "./pager.js";
import { Poller } from "./poller.js";

const AT_ONCE = 1000;
const MOST = 50_000;
const ROWS = 50;
const LEAST_PAUSE_MS = 5000;

export class Channels {
  #api; #poller; #all = []; #complete = true; #page = 0; #order = "members"; #tookMs = 0; #readAt = 0;
  #aborter = new AbortController();

  constructor(api, told) {
    this.#api = api;
    // Reading takes a tenth of the time at the most.
    this.#poller = new Poller((current) => this.#read(current), () => Math.max(LEAST_PAUSE_MS, 10 * this.#tookMs), (error) => {
      say(byId("channels-said"), explain(error));
      told(error);
    });
    const options = { signal: this.#aborter.signal };
    byId("find").addEventListener("input", () => this.#turn(0), options);
    byId("before").addEventListener("click", () => this.#turn(this.#page - 1), options);
    byId("after").addEventListener("click", () => this.#turn(this.#page + 1), options);
    for (const button of document.querySelectorAll("[data-order]")) {
      button.addEventListener("click", () => this.#sortBy(button.dataset.order), options);
    }
  }

  start() {
    this.#poller.start();
  }

  stop() {
    this.#poller.stop();
    this.#aborter.abort();
    this.#all = [];
    byId("channels").replaceChildren();
  }

  async #read(current) {
    const began = performance.now();
    const found = [];
    const prefix = this.#complete ? "" : byId("find").value.trim(); // too many for one list: the server looks, too
    let after;
    do {
      const answer = await this.#api.get(["channels"], { limit: AT_ONCE, after, prefix });
      if (!current()) return;
      found.push(...answer.channels);
      after = answer.next;
      if (this.#readAt === 0) this.#show(found, true);
    } while (after !== undefined && found.length < MOST);
    this.#tookMs = performance.now() - began;
    this.#readAt = Date.now();
    if (after !== undefined) this.#complete = false;
    this.#show(found, false);
  }

  #show(found, reading) {
    this.#all = found;
    say(byId("total-channels"), found.length.toLocaleString("en") + (this.#complete ? "" : "+"));
    say(byId("channels-said"), reading ? `Reading … ${count(found.length, "channel")} so far` : this.#standing());
    this.#draw();
  }

  #standing() {
    const read = `${count(this.#all.length, "channel")}, read at ${clock(this.#readAt)}`;
    return this.#complete ? read : `The first ${read}: there are more, find them by how their names begin`;
  }

  #turn(number) {
    this.#page = number;
    this.#draw();
    if (!this.#complete) this.#poller.hurry();
  }

  #sortBy(order) {
    this.#order = order;
    for (const button of document.querySelectorAll("[data-order]")) {
      const sorted = button.dataset.order !== order ? "none" : order === "members" ? "descending" : "ascending";
      button.closest("th").setAttribute("aria-sort", sorted);
    }
    this.#turn(0);
  }

  #draw() {
    const text = byId("find").value.trim();
    const found = arrange(this.#all, { text, order: this.#order });
    const shown = page(found, this.#page, ROWS);
    this.#page = shown.page;
    const busiest = Math.max(1, ...shown.rows.map((row) => row.count));
    byId("channels").replaceChildren(...shown.rows.map((row) => channelRow(row, busiest)));
    byId("no-channels").hidden = shown.rows.length > 0;
    say(byId("no-channels"), text ? "No channel is called like that." : "Nobody is anywhere. Channels with members appear here.");
    say(byId("which"), shown.rows.length ? `${shown.first.toLocaleString("en")}–${shown.last.toLocaleString("en")} of ${found.length.toLocaleString("en")}` : "");
    byId("channel-pages").hidden = shown.pages === 1;
    byId("before").disabled = shown.page === 0;
    byId("after").disabled = shown.page >= shown.pages - 1;
  }
}

function channelRow({ channel, count: members }, busiest) {
  const link = element("a", { class: "name", href: `#/channels/${encodeURIComponent(channel)}`, text: shorten(channel, 120) });
  const bar = element("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--part", String(members / busiest));
  return element("tr", {},
    element("th", { scope: "row" }, link),
    element("td", { class: "number" }, bar, element("span", { text: members.toLocaleString("en") })));
}
