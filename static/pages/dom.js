// What both pages make their elements with. Names, states and messages come from other people: they are text, never markup.

const SVG = "http://www.w3.org/2000/svg";
const ICONS = new Map([
  ["link", "M9.5 14.5l5-5M8 11l-2.5 2.5a3.9 3.9 0 0 0 5.5 5.5L13.500 16.500M16 13l2.500-2.500a3.900 3.900 0 0 0-5.500-5.500L10.500 7.500"],
  ["tab", "M4 8V6a2 2 0 0 1 2-2h12a2 2 0 0 1 2 2v12a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2zM4 9h16M12 12v5M9.500 14.500h5"],
  ["leave", "M14 8V6a2 2 0 0 0-2-2H7a2 2 0 0 0-2 2v12a2 2 0 0 0 2 2h5a2 2 0 0 0 2-2v-2M10 12h10m-3-3 3 3-3 3"],
  ["send", "M5 12h13m-5-5 5 5-5 5"],
  ["key", "M14.500 13.500a4.500 4.500 0 1 0-4.200-2.900L4 17v3h3l.5-2H10v-2.500l1.500-1.500c.9.600 1.900.500 3-.5zM15.500 8.500h.01"],
]);

// An element with attributes; of these `text` is its text, and `true` and `false` are there or not.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") made.textContent = value;
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function icon(name) {
  return shape("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, shape("path", { d: ICONS.get(name) }));
}

// A round with the first character of the name, in a colour of the name's own.
export function avatar(name) {
  const made = element("span", { class: "avatar", "aria-hidden": "true", text: initial(name) });
  made.style.setProperty("--hue", String(hue(name)));
  return made;
}

export function initial(name) {
  const first = "Segmenter" in Intl ? [...new Intl.Segmenter().segment(name)][0]?.segment : [...name][0];
  return (first ?? "?").toLocaleUpperCase();
}

export function hue(name) {
  let sum = 2166136261; // FNV-1a: names that are alike get colours that are not
  for (let at = 0; at < name.length; at++) sum = Math.imul(sum ^ name.charCodeAt(at), 16777619);
  return (sum >>> 8) % 360;
}

// Put the text only where it is another one: what did not change is not read out again, and no layout is done.
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function shorten(text, most) {
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

export function byId(id) {
  return document.getElementById(id);
}
