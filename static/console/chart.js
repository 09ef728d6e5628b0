// A small line chart of the last minutes: SVG for the eye, a sentence and a table for everybody else.

import { element, say, shape } from "../pages/dom.js";
import { clock } from "../pages/words.js";

const HEIGHT = 168;
const EDGE = { left: 44, right: 10, top: 10, bottom: 22 };
const TABLE_ROWS = 15;

// A round number at or above the value, whose half is round, too.
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 10].map((step) => step * power).find((step) => step >= value);
}

// Runs of points with values: a line is broken where nothing is known.
export function runs(points, key) {
  const found = [[]];
  for (const point of points) {
    if (Number.isFinite(point[key])) found.at(-1).push(point);
    else if (found.at(-1).length) found.push([]);
  }
  return found.filter((run) => run.length);
}

export class Chart {
  #figure; #lines; #format; #mark; #spanMs; #least; #width = 0;
  #picture = shape("svg", { role: "img", class: "plot", height: HEIGHT });
  #legend = element("ul", { class: "legend" });
  #rows = element("tbody");
  #details;
  #points = [];

  // lines: [{key, name}]; format: of a value, as text; mark: {value, name}, a line to compare with.
  constructor(figure, { lines, format, mark, spanMs, least = 1 }) {
    this.#figure = figure;
    this.#lines = lines;
    this.#format = format;
    this.#mark = mark;
    this.#spanMs = spanMs;
    this.#least = least;
    const head = element("tr", {}, ...["At", ...lines.map(({ name }) => name)].map((text) => element("th", { scope: "col", text })));
    const table = element("table", {}, element("thead", {}, head), this.#rows);
    this.#details = element("details", {}, element("summary", { text: "As a table" }), table);
    this.#details.addEventListener("toggle", () => this.#drawTable());
    this.#legend.append(...lines.map(({ key, name }) => element("li", { "data-line": key }, element("span", { text: name }), element("b", { class: "number" }))));
    if (mark) this.#legend.append(element("li", { "data-line": "mark" }, element("span", { text: mark.name })));
    figure.append(this.#legend, this.#picture, this.#details);
    new ResizeObserver(() => this.draw(this.#points)).observe(figure);
  }

  // points: [{at, [key]: value}], the oldest first.
  draw(points) {
    this.#points = points;
    const newest = points.at(-1);
    this.#width = Math.max(200, this.#picture.clientWidth);
    this.#picture.setAttribute("viewBox", `0 0 ${this.#width} ${HEIGHT}`);
    const values = points.flatMap((point) => this.#lines.map(({ key }) => point[key])).filter(Number.isFinite);
    const top = ceiling(Math.max(this.#least, this.#mark?.value ?? 0, ...values));
    const end = newest?.at ?? Date.now();
    const x = (at) => this.#width - EDGE.right - ((end - at) / this.#spanMs) * (this.#width - EDGE.left - EDGE.right);
    const y = (value) => HEIGHT - EDGE.bottom - (value / top) * (HEIGHT - EDGE.top - EDGE.bottom);
    this.#picture.replaceChildren(...this.#grid(top, x, y, end), ...this.#curves(points, x, y));
    this.#picture.setAttribute("aria-label", this.#sentence(newest));
    for (const { key } of this.#lines) {
      say(this.#legend.querySelector(`[data-line="${key}"] b`), newest ? this.#format(newest[key]) : "–");
    }
    if (this.#details.open) this.#drawTable();
  }

  #sentence(newest) {
    const title = this.#figure.querySelector("figcaption").textContent;
    if (!newest) return `${title}: nothing read yet`;
    return `${title}: ${this.#lines.map(({ key, name }) => `${name} ${this.#format(newest[key])}`).join(", ")}`;
  }

  #grid(top, x, y, end) {
    const parts = [0, top / 2, top].flatMap((value) => [
      shape("line", { class: "grid", x1: EDGE.left, x2: this.#width - EDGE.right, y1: y(value), y2: y(value) }),
      shape("text", { x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, this.#format(value)),
    ]);
    for (const part of [1, 0.5, 0]) {
      const at = end - part * this.#spanMs;
      const text = part ? `${Math.round((part * this.#spanMs) / 60_000)} min ago` : "now";
      const anchor = part === 1 ? "start" : part ? "middle" : "end";
      parts.push(shape("text", { x: x(at), y: HEIGHT - 5, "text-anchor": anchor }, text));
    }
    if (this.#mark) {
      const height = y(this.#mark.value);
      parts.push(shape("line", { class: "mark", x1: EDGE.left, x2: this.#width - EDGE.right, y1: height, y2: height }));
    }
    return parts;
  }

  #curves(points, x, y) {
    return this.#lines.flatMap(({ key }) => runs(points, key).flatMap((run) => {
      const path = run.map((point) => `${x(point.at).toFixed(1)},${y(point[key]).toFixed(1)}`);
      const [cx, cy] = path.at(-1).split(",");
      const dot = run.at(-1) === points.at(-1) || run.length === 1 ? [shape("circle", { "data-line": key, cx, cy, r: 3 })] : [];
      return [shape("polyline", { "data-line": key, points: path.join(" ") }), ...dot];
    }));
  }

  #drawTable() {
    const rows = this.#points.slice(-TABLE_ROWS).reverse().map((point) => element("tr", {},
      element("th", { scope: "row", class: "number", text: clock(point.at) }),
      ...this.#lines.map(({ key }) => element("td", { class: "number", text: this.#format(point[key]) }))));
    this.#rows.replaceChildren(...rows);
  }
}
