/** Events: `join`, `leave`, `update`, `message` with the wire event as `detail`; `sync`. */
export class Channel extends EventTarget {
    /** @internal */
    constructor(name: any, members: any, act: any);
    /** @readonly @type {string} */
    readonly name: string;
    /** @readonly @type {Map<string, import("./client/types.js").Member>} */
    readonly members: Map<string, import("./client/types.js").Member>;
    get count(): number;
    /** @param {object} state */
    set(state: object): Promise<void>;
    /** @param {string} name @param {any} [data] */
    publish(name: string, data?: any): Promise<void>;
    leave(): Promise<void>;
    #private;
}
/** Events: `status`, `error`, `inbox`. */
export class Presence extends EventTarget {
    /** @param {string} url @param {import("./client/types.js").Options} options */
    constructor(url: string, options: import("./client/types.js").Options);
    /** @type {import("./client/types.js").Status} */
    status: import("./client/types.js").Status;
    /** @type {import("./client/types.js").Transport | undefined} */
    transport: import("./client/types.js").Transport | undefined;
    /** @type {string | undefined} */
    user: string | undefined;
    /** @returns {string} */
    get session(): string;
    /** @param {string} name @param {import("./client/types.js").How} [how] @returns {Promise<Channel>} */
    join(name: string, how?: import("./client/types.js").How): Promise<Channel>;
    /** @param {import("./client/types.js").Frame} command */
    send(command: import("./client/types.js").Frame): Promise<any>;
    close(): void;
    #private;
}
