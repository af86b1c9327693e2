// What every script of the page uses: elements, texts, messages, and what outlives a reload.

export const $ = (id) => document.getElementById(id);

// Text enters the page as text nodes and properties only: the id of a photo may be anything.
export function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function on(target, handlers) {
  for (const [name, handler] of Object.entries(handlers)) target.addEventListener(name, handler);
}

export const fileName = (id) => id.split("/").pop() || id;
export const isolated = (text) => element("bdi", { textContent: text }); // Names may be written from right to left.
export const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
export const sentence = (text) => (/[.!?…]$/.test(text) ? text : `${text}.`);
export const clamped = (value, low, high) => Math.min(high, Math.max(low, value));

// Shows a message. Screen readers read it.
export function say(text) {
  $("message").textContent = text;
}

// Tells screen readers only. A newer text replaces one that still waits.
export function announce(text, delay = 0) {
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => ($("status").textContent = text), delay);
}

export function remember(key, value) {
  try {
    sessionStorage.setItem(`zse.${key}`, JSON.stringify(value));
  } catch {
    // Storage may be full or switched off. The page works without it.
  }
}

export function remembered(key) {
  try {
    return JSON.parse(sessionStorage.getItem(`zse.${key}`));
  } catch {
    return null;
  }
}
