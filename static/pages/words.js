// Numbers and times as people read them. Pure.

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

// How long: "4 s", "12 min", "3 h", "2 days"; number and unit stay on one line.
export function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 100) return `${seconds}\u00a0s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 100) return `${minutes}\u00a0min`;
  const hours = Math.round(minutes / 60);
  return hours < 49 ? `${hours}\u00a0h` : `${Math.round(hours / 24)}\u00a0days`;
}

// A time of day in the reader's own zone.
export function clock(at) {
  return new Date(at).toLocaleTimeString("en-GB");
}

export function milliseconds(ms) {
  if (!Number.isFinite(ms)) return "–";
  if (ms >= 1000) return `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`;
  return `${ms < 10 ? Number(ms.toFixed(1)) : Math.round(ms)} ms`;
}

// An event of a channel in one line.
export function happening(event) {
  const who = event.user ?? "the back end";
  if (event.type === "join") return [who, "joined"];
  if (event.type === "leave") return [who, LEAVING.get(event.reason) ?? "left"];
  if (event.type === "update") return [who, `is now: ${text(event.state?.doing ?? event.state)}`];
  if (event.type === "message") return [who, `${event.name === "chat" ? "" : `${event.name}: `}${text(event.data)}`];
  return [who, event.type];
}

const LEAVING = new Map([
  ["left", "left"],
  ["timeout", "is gone: no sign of life"],
  ["disconnected", "was disconnected"],
]);

function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value ?? null);
}
