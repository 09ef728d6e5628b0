export class Roster {
  members = new Map();
  synced = false;
  #epoch;
  #seq;
  #draft;

  get cursor() {
    return this.#epoch && !this.#draft ? `${this.#epoch}:${this.#seq}` : "";
  }

  get after() {
    return this.#draft?.after;
  }

  *take({ cursor, events, members = [], truncated }) {
    const [epoch, seq] = parse(cursor);
    if (events) {
      if (epoch === this.#epoch) for (const event of events) yield* this.#fold(event);
    } else if (epoch !== this.#epoch || !(seq < this.#seq) || this.#draft) {
      this.#epoch = epoch;
      this.#seq = seq;
      const after = truncated && members.at(-1)?.user;
      this.#draft = { members: byUser(members), after, seq, touched: new Map() };
      if (!after) yield* this.#adopt();
    }
  }

  *page({ cursor, members, next }, after) {
    const [epoch, seq] = parse(cursor);
    const draft = this.#draft;
    if (draft?.after !== after || epoch !== this.#epoch || seq < draft.seq) return; // of an older snapshot
    for (const [user, member] of byUser(members)) {
      if (!(draft.touched.get(user) > seq)) draft.members.set(user, member);
    }
    Object.assign(draft, { after: next, seq });
    if (!next && this.#seq >= seq) yield* this.#adopt();
  }

  *#adopt() {
    const { members } = this.#draft;
    const known = this.synced ? new Map(this.members) : members;
    this.#draft = undefined;
    this.synced = true;
    this.members.clear();
    for (const [user, member] of members) this.members.set(user, member);
    for (const [user, { info, state }] of known) if (!members.has(user)) yield { type: "leave", user, info, state };
    for (const [user, { info, state }] of members) {
      const before = known.get(user);
      const same = JSON.stringify([before?.info, before?.state]) === JSON.stringify([info, state]);
      if (!same) yield { type: before ? "update" : "join", user, info, state };
    }
    yield { type: "sync" };
  }

  *#fold(event) {
    if (event.seq <= this.#seq) return;
    this.#seq = event.seq;
    const draft = this.#draft;
    draft?.touched.set(event.user, event.seq);
    put(draft?.members ?? this.members, event);
    if (!draft || event.type === "message") yield event;
    if (draft && !draft.after && this.#seq >= draft.seq) yield* this.#adopt();
  }
}

function put(members, { type, user, info, state, at }) {
  const known = members.get(user);
  if (type === "leave") members.delete(user);
  else if (type === "join") members.set(user, { user, info, state, since: at });
  else if (type === "update" && known) members.set(user, { ...known, state, info: info ?? known.info });
}

function byUser(members) {
  return new Map(members.map((member) => [member.user, member]));
}

function parse(cursor) {
  const [epoch, seq] = cursor.split(":");
  return [epoch, +seq];
}
