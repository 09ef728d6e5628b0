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
      this.#draft = { members: new Map(), events: [] };
      yield* this.#read(seq, members, truncated && members.at(-1)?.user);
    }
  }

  *page({ cursor, members, next }, after) {
    const [epoch, seq] = parse(cursor);
    if (epoch !== this.#epoch || after !== this.after || seq < this.#draft.seq) return; // of an older snapshot
    yield* this.#read(seq, members, next);
  }

  *#read(seq, members, after) {
    for (const member of members) this.#draft.members.set(member.user, member);
    Object.assign(this.#draft, { seq, after });
    yield* this.#adopt();
  }

  *#adopt() {
    const { members, events, seq, after } = this.#draft;
    if (after || this.#seq < seq) return;
    for (const event of events) put(members, event);
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
    if (this.#draft) this.#draft.events.push(event);
    else put(this.members, event);
    if (!this.#draft || event.type === "message") yield event;
    if (this.#draft) yield* this.#adopt();
  }
}

function put(members, { type, user, info, state, at }) {
  const known = members.get(user);
  if (type === "leave") members.delete(user);
  else if (type === "join") members.set(user, { user, info, state, since: at });
  else if (type === "update" && known) members.set(user, { ...known, state, info: info ?? known.info });
}

function parse(cursor) {
  const [epoch, seq] = cursor.split(":");
  return [epoch, +seq];
}
