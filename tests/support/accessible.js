// What is wrong with a page for people who read it by ear, by keyboard, with weak sight or on a phone: sentences.
() => {
  const found = [];
  const shown = (one) => one.checkVisibility({ visibilityProperty: true }) && one.getClientRects().length > 0;
  const all = (selector) => [...document.querySelectorAll(selector)].filter(shown);
  const call = (one) => `<${one.localName}${one.id ? ` id=${one.id}` : ""}> ${one.textContent.trim().slice(0, 30)}`;

  if (!document.documentElement.lang) found.push("no language");
  if (!document.title.trim()) found.push("no title");
  if (all("main").length !== 1) found.push("not one main landmark");
  if (all("h1").length !== 1) found.push("not one h1");
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) found.push(`id ${id} twice`);

  let level = 0;
  for (const heading of all("h1, h2, h3, h4")) {
    const own = Number(heading.localName[1]);
    if (own > level + 1) found.push(`heading skips a level: ${call(heading)}`);
    level = own;
  }

  const named = (one) => {
    const by = (one.getAttribute("aria-labelledby") ?? "").split(/\s+/).filter(Boolean).map((id) => document.getElementById(id));
    const words = [one.getAttribute("aria-label"), ...by.map((label) => label?.textContent), one.title];
    if (["INPUT", "SELECT", "TEXTAREA"].includes(one.tagName)) words.push(...[...one.labels].map((label) => label.textContent));
    else words.push(one.textContent, one.getAttribute("alt"));
    return words.some((word) => word?.trim());
  };
  for (const one of all("a, button, input, select, textarea, [role=img], [role=region], [role=group], nav, section, dialog, [tabindex='0']")) {
    if (!named(one)) found.push(`no name: ${call(one)}`);
  }
  for (const one of all("img")) if (!one.hasAttribute("alt")) found.push(`no alt: ${one.src}`);
  for (const one of all("a")) if (!one.hasAttribute("href")) found.push(`a link to nowhere: ${call(one)}`);
  for (const one of all("[onclick], div[role=button], span[role=button]")) found.push(`no real button: ${call(one)}`);
  for (const one of all("a, button, input")) {
    const box = one.getBoundingClientRect();
    if (box.height < 18) found.push(`too small to hit (${Math.round(box.height)} px): ${call(one)}`);
  }

  const room = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > room) {
    const wide = all("body *").filter((one) => one.getBoundingClientRect().right > room + 1).slice(-3);
    found.push(`scrolls sideways: ${document.documentElement.scrollWidth} px for ${room}: ${wide.map(call).join("; ")}`);
  }

  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = (top, below) => [0, 1, 2].map((at) => top[at] * top[3] + below[at] * (1 - top[3])).concat(1);
  const ground = (one) => {
    const layers = [];
    for (let at = one; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    return layers.reverse().reduce((below, top) => over(top, below), dark ? [18, 18, 18, 1] : [255, 255, 255, 1]);
  };
  const light = (colour) => colour.slice(0, 3)
    .map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const faded = (one) => (one ? Number(getComputedStyle(one).opacity) * faded(one.parentElement) : 1);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !shown(one) || one.closest(".unseen, :disabled, script, style, .skip")) continue;
    const style = getComputedStyle(one);
    const text = rgba(one instanceof SVGElement ? style.fill : style.color);
    text[3] *= faded(one);
    const below = ground(one);
    const ratio = contrast(over(text, below), below);
    if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(2)}: ${call(one)}`);
  }
  for (const one of all("input, button:not(.plain, .primary, :disabled)")) {
    const style = getComputedStyle(one);
    const ratio = contrast(rgba(style.borderTopColor), ground(one.parentElement));
    if (ratio < 3) found.push(`edge ${ratio.toFixed(2)}: ${call(one)}`);
  }
  return found;
}
