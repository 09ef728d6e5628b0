// Which rows are shown: found, ordered, and of those one page. Pure, and quick with tens of thousands.

export const ORDERS = new Map([
  ["members", (one, other) => other.count - one.count || compare(one.channel, other.channel)],
  ["name", (one, other) => compare(one.channel, other.channel)],
]);

export function arrange(rows, { text = "", order = "members" } = {}) {
  const wanted = text.toLocaleLowerCase();
  const found = wanted ? rows.filter(({ channel }) => channel.toLocaleLowerCase().includes(wanted)) : rows.slice();
  return found.sort(ORDERS.get(order));
}

// {rows, page, pages, first, last}: page is moved to the nearest that is there; first and last count from 1.
export function page(rows, wanted, size) {
  const pages = Math.max(1, Math.ceil(rows.length / size));
  const number = Math.min(Math.max(0, wanted), pages - 1);
  const shown = rows.slice(number * size, (number + 1) * size);
  return { rows: shown, page: number, pages, first: shown.length && number * size + 1, last: number * size + shown.length };
}

// By code units: quick, and the same for everybody.
function compare(one, other) {
  return one < other ? -1 : Number(one > other);
}
