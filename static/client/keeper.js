// Signs of life for a stream or poll. As a worker, which neither a hidden tab nor a busy page delays.

let timer;

export function beat({ url, init, everyMs }, tell) {
  clearInterval(timer);
  timer = setInterval(() => fetch(url, init).then(({ ok }) => ok && tell(ok), () => {}), everyMs);
  return timer;
}

if (globalThis.WorkerGlobalScope) onmessage = ({ data }) => beat(data, postMessage);
