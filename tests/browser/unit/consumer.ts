// What a page written in TypeScript does with the client. It is only compiled.
import { Channel, Presence } from "../../../static/presence.js";
import type { Member, Status } from "../../../static/client/types.js";

const client = new Presence("wss://presence.example", {
  token: async () => "a.b.c",
  session: "0123456789abcdef",
  transports: ["websocket", "sse", "longpoll"],
  leaveOnHide: true,
});
const other: Presence = new Presence("/", { token: "a.b.c" });

export async function use(): Promise<number> {
  const room: Channel = await client.join("room:1", { state: { mood: "awake" }, as: "member" });
  room.addEventListener("join", (event) => show((event as CustomEvent<Member>).detail));
  await room.set({ mood: "tired" });
  await room.publish("chat", { text: "hello" });
  const ann: Member | undefined = room.members.get("ann");
  if (ann) show(ann);
  const status: Status = client.status;
  const name: string = room.name + status + client.session + (client.user ?? "") + (client.transport ?? "");
  await client.send({ type: "beat" });
  await room.leave();
  other.close();
  // @ts-expect-error: a transport that there is not
  new Presence("/", { token: "a.b.c", transports: ["pigeon"] });
  // @ts-expect-error: without a token
  new Presence("/", {});
  return room.count + name.length;
}

function show({ user, state }: Member): void {
  console.log(user, state.mood);
}
