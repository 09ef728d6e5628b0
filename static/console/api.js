// The back end's endpoints, asked with the key of whoever looks. The key lives in this object and nowhere else.

export class Refused extends Error {
  constructor(status, code, message, retryMs = 0) {
    super(message);
    this.name = "Refused";
    this.status = status;
    this.code = code;
    this.retryMs = retryMs;
  }
}

export class Api {
  #key;
  #aborter = new AbortController();

  constructor(key) {
    this.#key = key;
  }

  // Parts are names, taken literally.
  get(parts, query = {}) {
    return this.#ask("GET", parts, query);
  }

  post(parts, body) {
    return this.#ask("POST", parts, {}, body);
  }

  // The metrics of whichever node answers, as text.
  async metrics() {
    const answer = await this.#fetch("/metrics", {});
    if (!answer.ok) throw new Refused(answer.status, "metrics", `/metrics answers ${answer.status}`);
    return answer.text();
  }

  // No answer comes any more, and the key is gone.
  forget() {
    this.#key = "";
    this.#aborter.abort();
  }

  async #ask(method, parts, query, body) {
    const path = `/v1/${parts.map(encodeURIComponent).join("/")}`;
    const given = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== undefined && value !== ""));
    const headers = { Authorization: `Bearer ${this.#key}` };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const answer = await this.#fetch(`${path}${given.size ? `?${given}` : ""}`, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (answer.ok) return answer.json();
    const problem = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, problem.code ?? "", problem.detail ?? `HTTP ${answer.status}`, problem.retry_ms);
  }

  async #fetch(address, options) {
    const signal = this.#aborter.signal;
    try {
      return await fetch(address, { ...options, signal, cache: "no-store", credentials: "omit", redirect: "error" });
    } catch (error) {
      if (signal.aborted) throw error;
      throw new Refused(0, "unreachable", "no node answers");
    }
  }
}

// A refusal in words for whoever looks.
export function explain(error) {
  if (error.status === 401) return "This key is not, or no longer, accepted.";
  if (error.status === 503) return `Redis cannot be asked: ${error.message}.`;
  return `${error.message}.`;
}
