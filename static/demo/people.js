// The list of who is here: one row each, kept while they stay, with a ring that shrinks while their grace runs out.

import { avatar, element, say, shape, shorten } from "../pages/dom.js";

const MOST_ROWS = 200;
const STEP_MS = 100;

export class People {
  #list; #me; #left; #rows = new Map(); #timer = null; #more = element("li", { class: "more" });

  // left(user) says what is left of a user's last stretch, or null.
  constructor(list, me, left) {
    this.#list = list;
    this.#me = me;
    this.#left = left;
  }

  // members: Map of user to member.
  draw(members) {
    const sorted = [...members.values()].sort((one, other) => this.#compare(one.user, other.user)).slice(0, MOST_ROWS);
    const shown = new Set(sorted.map(({ user }) => user));
    for (const [user, row] of this.#rows) {
      if (shown.has(user)) continue;
      row.item.remove();
      this.#rows.delete(user);
    }
    sorted.forEach((member, at) => {
      const row = this.#rows.get(member.user) ?? this.#add(member.user);
      say(row.doing, doing(member.state));
      if (this.#list.children[at] !== row.item) this.#list.insertBefore(row.item, this.#list.children[at] ?? null);
    });
    const hidden = members.size - sorted.length;
    this.#more.textContent = `and ${hidden.toLocaleString("en")} more`;
    if (hidden) this.#list.append(this.#more);
    else this.#more.remove();
    this.tick();
  }

  // Show what is left now, and go on while anything runs out.
  tick() {
    const running = [...this.#rows].map(([user, row]) => user !== this.#me && this.#show(row, this.#left(user)));
    if (!running.includes(true)) {
      clearInterval(this.#timer);
      this.#timer = null;
    } else this.#timer ??= setInterval(() => this.tick(), STEP_MS);
  }

  #show(row, left) {
    row.item.classList.toggle("leaving", left !== null);
    say(row.mark, left === null ? "" : left.ms > 0 ? `gone in ${Math.ceil(left.ms / 1000)} s` : "going");
    row.circle.setAttribute("stroke-dashoffset", String(left === null ? 0 : 100 * (1 - left.share)));
    return left !== null;
  }

  #add(user) {
    const circle = shape("circle", { cx: 22, cy: 22, r: 20.5, pathLength: 100, "stroke-dasharray": 100 });
    const ring = shape("svg", { class: "ring", viewBox: "0 0 44 44", "aria-hidden": "true" }, circle);
    const mark = element("span", { class: "mark number", text: user === this.#me ? "you" : "" });
    const said = element("span", { class: "doing" });
    const item = element("li", { class: "new" },
      element("span", { class: "face" }, avatar(user), ring), element("span", { class: "name", text: shorten(user, 120) }), said, mark);
    const row = { item, mark, circle, doing: said };
    this.#rows.set(user, row);
    return row;
  }

  #compare(one, other) {
    if (one === this.#me || other === this.#me) return one === this.#me ? -1 : 1;
    return one < other ? -1 : Number(one > other);
  }
}

function doing(state) {
  return typeof state?.doing === "string" ? shorten(state.doing, 120) : "";
}
