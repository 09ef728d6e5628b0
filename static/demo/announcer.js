// Tells who listens to the page what happened, gathered, so that a busy channel does not talk without end.

const GATHER_MS = 1200;
const EACH = 3;

// What happened, in one sentence or a few. Pure.
export function gather(happenings) {
  const named = (type, words) => {
    const who = happenings.filter((one) => one.type === type);
    if (who.length > EACH) return [`${who.length} people ${words}.`];
    return who.map(({ user }) => `${user} ${words}.`);
  };
  const said = happenings.filter((one) => one.type === "message");
  const messages = said.length > EACH ? [`${said.length} messages.`] : said.map(({ user, text }) => `${user}: ${text}.`);
  return [...named("join", "joined"), ...named("leave", "left"), ...messages].join(" ");
}

export class Announcer {
  #region; #waiting = []; #timer = null;

  constructor(region) {
    this.#region = region;
  }

  tell(happening) {
    this.#waiting.push(happening);
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#region.textContent = gather(this.#waiting.splice(0));
    }, GATHER_MS);
  }
}
