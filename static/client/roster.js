// Who is in one channel, as far as this client has heard: a snapshot, and the events since. What comes in are frames.

/** @typedef {{user: string, info: object, state: object, sessions?: number, since?: number}} Member */

export class Roster {
  /** A Map, for a user may be called __proto__; always the same one. @type {Map<string, Member>} */
  members = new Map();
  /** Whether there was a whole snapshot. */
  synced = false;
  #epoch = "";
  #seq = 0;
  #draft = null; // a snapshot whose last pages are still to come: {members, after, seq, touched: user -> seq}

  /** Where to resume; empty while there is half a roster, which is no base for that. */
  get cursor() {
    return this.#epoch && !this.#draft ? `${this.#epoch}:${this.#seq}` : "";
  }

  /** The user behind whom the rest begins; undefined when all is here. */
  get after() {
    return this.#draft?.after;
  }

  /** A `joined` or `events` frame; gives what is news, each when it is folded. */
  *take({ cursor, events, members = [], truncated }) {
    const { epoch, seq } = parse(cursor);
    if (events) {
      if (epoch === this.#epoch) for (const event of events) yield* this.#fold(event);
      return;
    }
    if (epoch === this.#epoch && seq < this.#seq && !this.#draft) return; // we know more
    this.#epoch = epoch;
    this.#seq = seq;
    const taken = new Map(members.map((member) => [member.user, member]));
    this.#draft = { members: taken, after: truncated && members.at(-1)?.user, seq, touched: new Map() };
    if (!this.after) yield* this.#adopt();
  }

  /** A `who` frame with the members behind `after`; gives the changes when it was the last one. */
  *page({ cursor, members, next }, after) {
    const { epoch, seq } = parse(cursor);
    const draft = this.#draft;
    if (draft?.after !== after || epoch !== this.#epoch || seq < draft.seq) return; // of an older snapshot
    // It may be older than events that overtook it: whom they touched stays as they left them.
    for (const member of members) {
      if (!(draft.touched.get(member.user) > seq)) draft.members.set(member.user, member);
    }
    draft.after = next;
    if (!next) yield* this.#adopt();
  }

  // The page hears only of what is different from what it knew.
  *#adopt() {
    const { members } = this.#draft;
    const known = new Map(this.members);
    const told = this.synced;
    this.#draft = null;
    this.synced = true;
    this.members.clear();
    for (const [user, member] of members) this.members.set(user, member);
    if (!told) return;
    for (const [user, { info, state }] of known) if (!members.has(user)) yield { type: "leave", user, info, state };
    for (const [user, { info, state }] of members) {
      const before = known.get(user);
      const type = before ? "update" : "join";
      if (JSON.stringify([before?.info, before?.state]) !== JSON.stringify([info, state])) yield { type, user, info, state };
    }
  }

  *#fold(event) {
    if (event.seq <= this.#seq) return; // told by the connection before this one
    this.#seq = event.seq;
    const draft = this.#draft;
    draft?.touched.set(event.user, event.seq);
    for (const members of draft ? [this.members, draft.members] : [this.members]) put(members, event);
    if (this.synced || event.type === "message") yield event;
  }
}

function put(members, { type, user, info, state, at }) {
  const known = members.get(user);
  if (type === "leave") members.delete(user);
  else if (type === "join") members.set(user, { user, info, state, since: at });
  else if (type === "update" && known) members.set(user, { ...known, state, info: info ?? known.info });
}

function parse(cursor) {
  const colon = cursor.lastIndexOf(":");
  return { epoch: cursor.slice(0, colon), seq: Number(cursor.slice(colon + 1)) };
}
