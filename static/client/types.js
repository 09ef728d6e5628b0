// The types that the public documentation comments name. Nothing loads this file; the compiler reads it.

/** @typedef {"connecting" | "online" | "offline" | "closed"} Status */
/** @typedef {"websocket" | "sse" | "longpoll"} Transport */

/**
 * @typedef {object} Member
 * @property {string} user
 * @property {Record<string, any>} info
 * @property {Record<string, any>} state
 * @property {number} [sessions] only of members that a snapshot showed
 * @property {number} [since] Unix milliseconds
 */

/**
 * @typedef {object} Options
 * @property {string | (() => string | Promise<string>)} token or what gives a fresh one
 * @property {string} [session] in place of a new one for each page load
 * @property {Transport[]} [transports] in the order of preference
 * @property {boolean} [leaveOnHide] leave without grace when the page goes
 */

/**
 * @typedef {object} How
 * @property {Record<string, any>} [state] mine, from the beginning
 * @property {"member" | "observer"} [as]
 */

/** @typedef {{type: string, [field: string]: any}} Frame */

export {};
