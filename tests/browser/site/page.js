// A page that uses the client as a page does, and notes everything that it is told. What its address asks for is begun
// with every load, so a reloaded page does it again; tests begin more by `window.begin`, and read `window.journals`.
// It shows nothing unless it is asked to: a page that has painted nothing still counts as loading, and is throttled
// sooner when it is hidden.

const asked = new URLSearchParams(location.search);

class Journal {
  statuses = [];
  events = []; // of all channels; {type: "sync"} stands where a snapshot was taken
  errors = [];
  refused = null;

  constructor(client) {
    this.client = client;
    this.channels = new Map();
    client.addEventListener("status", ({ detail }) => this.statuses.push(detail));
    client.addEventListener("error", ({ detail }) => this.errors.push(detail));
  }

  async join(name, how) {
    try {
      const channel = await this.client.join(name, how);
      this.channels.set(name, channel);
      for (const type of ["join", "leave", "update", "message"]) {
        channel.addEventListener(type, ({ detail }) => this.events.push(detail));
      }
      channel.addEventListener("sync", () => this.events.push({ type: "sync" }));
      for (const type of ["join", "leave", "sync"]) channel.addEventListener(type, () => show(channel));
      show(channel);
    } catch (error) {
      this.refused = error.code ?? String(error);
    }
  }

  toJSON() {
    const { statuses, events, errors, refused, client } = this;
    const { status, transport, session, user } = client;
    const rosters = [...this.channels.values()].map(({ name, members }) => [name, [...members.values()]]);
    return { statuses, events, errors, refused, status, transport, session, user, rosters };
  }
}

function show(channel) {
  if (!asked.has("show")) return;
  const entries = [...channel.members.keys()].map((user) => {
    const entry = document.createElement("li");
    entry.textContent = user;
    return entry;
  });
  document.querySelector("#members").replaceChildren(...entries);
}

window.journals = new Map();

/** Make a client and join; resolves when that is done or refused. */
window.begin = async (key, { user, channel, state, as, from = "", server = "/", fixed, ...options }) => {
  const { Presence } = await import(`${from}/static/presence.js`);
  const token = fixed ?? (async () => (await fetch(`/token?${new URLSearchParams({ user })}`)).text());
  const journal = new Journal(new Presence(server, { token, ...options }));
  window.journals.set(key, journal);
  if (channel) await journal.join(channel, { state, as });
};

window.shown = []; // of each pageshow, whether the page came out of the back-forward cache
addEventListener("pageshow", ({ persisted }) => window.shown.push(persisted));

// How often a timer of the page ran: shows how much it is throttled.
window.ticks = 0;
(function tick() {
  window.ticks++;
  setTimeout(tick, 100);
})();

if (asked.has("begin")) {
  const wanted = Object.entries(JSON.parse(asked.get("begin")));
  window.ready = Promise.all(wanted.map(([key, options]) => window.begin(key, options))).then(() => true);
}
