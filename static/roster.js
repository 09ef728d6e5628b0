// Who is in one channel, as far as this client has heard: a snapshot, and the events since.
// No wire in here: what comes in are the frames' own objects. Members are a Map: a user may be called __proto__.

export class Roster {
  members = new Map();
  cursor = null;
  #touched = null; // while pages are read: user -> seq of the last event that spoke of them

  // A `joined` or `events` frame.
  take(frame) {
    this.cursor = frame.cursor;
    if (frame.events) this.#fold(frame.events);
    else this.#replace(frame);
  }

  // A roster too long for one frame comes in pages. ask(after) gets the `who` frame of the next one.
  // True when it is whole; false when a newer snapshot took over meanwhile.
  async readRest(after, ask) {
    const touched = this.#touched;
    try {
      while (after !== undefined) {
        const page = await ask(after);
        if (this.#touched !== touched) return false;
        this.#addPage(page);
        after = page.next;
      }
    } catch (error) {
      this.cursor = null; // half a roster is no base for a resume: ask for a snapshot next time
      throw error;
    }
    this.#touched = null;
    return true;
  }

  #replace({ members, truncated }) { // no members where the token may not see
    this.members = new Map((members ?? []).map((member) => [member.user, member]));
    this.#touched = truncated ? new Map() : null;
  }

  // A page may be older than the events that overtook it: whom they touched stays as they left them.
  #addPage(page) {
    const seq = Number(page.cursor.split(":").at(-1));
    for (const member of page.members) {
      if (!(this.#touched.get(member.user) > seq)) this.members.set(member.user, member);
    }
  }

  #fold(events) {
    for (const event of events) {
      if (event.type === "message") continue;
      this.#touched?.set(event.user, event.seq);
      if (event.type === "leave") this.members.delete(event.user);
      else this.#put(event);
    }
  }

  #put({ type, user, info, state, at }) {
    const known = this.members.get(user);
    if (type === "join") this.members.set(user, { user, info, state, since: at });
    else if (type === "update" && known) this.members.set(user, { ...known, state, info: info ?? known.info });
  }
}
