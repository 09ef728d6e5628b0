// A worker that shows life: neither a hidden tab nor a busy page delays it.
let timer;

onmessage = ({ data: [url, init, everyMs] }) => {
  clearInterval(timer);
  timer = setInterval(() => fetch(url, init).then(({ ok }) => ok && postMessage(ok), () => {}), everyMs);
};
