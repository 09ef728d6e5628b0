// A worker: neither a hidden tab nor a busy page delays it.
onmessage = ({ data: [url, init, everyMs] }) => {
  setInterval(() => fetch(url, init).then(({ ok }) => ok && postMessage(ok), () => {}), everyMs);
};
