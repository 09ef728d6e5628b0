export type Status = "connecting" | "online" | "offline" | "closed";
export type Transport = "websocket" | "sse" | "longpoll";
export type Member = {
    user: string;
    info: Record<string, any>;
    state: Record<string, any>;
    /**
     * only of members that a snapshot showed
     */
    sessions?: number;
    /**
     * Unix milliseconds
     */
    since?: number;
};
export type Options = {
    /**
     * or what gives a fresh one
     */
    token: string | (() => string | Promise<string>);
    /**
     * in place of a new one for each page load
     */
    session?: string;
    /**
     * in the order of preference
     */
    transports?: Transport[];
    /**
     * leave without grace when the page goes
     */
    leaveOnHide?: boolean;
};
export type How = {
    /**
     * mine, from the beginning
     */
    state?: Record<string, any>;
    as?: "member" | "observer";
};
export type Frame = {
    [field: string]: any;
    type: string;
};
