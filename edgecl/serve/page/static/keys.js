/** Keys: every screen says which it has, `?` shows them. */

import { ask, h } from "./dom.js";

/** @typedef {{key: string, says: string, run: (event: KeyboardEvent) => void, ctrl?: boolean,
 *   up?: (event: KeyboardEvent) => void, repeats?: boolean}} Key
 *  `key` is one character or a name such as `Enter`; `up` runs when it is let go. */

/** @type {Set<() => Key[]>} */
const tables = new Set();
/** @type {Map<string, Key>} */
const down = new Map();

/** Names of the keys of classes; `u` takes back, so it is none of them. */
export const CLASS_KEYS = "123456789abcdefghijklmnopqrstvwxyz";

/**
 * Use keys until the signal aborts.
 * @param {() => Key[]} table asked at each press, since classes come and go @param {AbortSignal} signal
 */
export function useKeys(table, signal) {
  tables.add(table);
  signal.addEventListener("abort", () => tables.delete(table));
}

/** Whether somebody writes, so that a letter is a letter. @param {EventTarget | null} target */
export const isWriting = (target) =>
  target instanceof HTMLElement && (target.matches("textarea, select, input") || target.isContentEditable);

/** @param {KeyboardEvent} event */
function pressed(event) {
  if (isWriting(event.target) || document.querySelector("dialog[open]") || event.altKey) return;
  const hasCtrl = event.ctrlKey || event.metaKey;
  if (event.key === "?" && !hasCtrl) {
    event.preventDefault();
    showKeys();
    return;
  }
  for (const table of tables) {
    const key = table().find((k) => k.key.toLowerCase() === event.key.toLowerCase() && !!k.ctrl === hasCtrl);
    if (!key) continue;
    // Space and Enter are what a button or link in focus is pressed with.
    const own = event.target instanceof Element && event.target.closest("button, a, summary, [role=option]");
    if (own && (event.key === " " || event.key === "Enter")) return;
    event.preventDefault();
    if (event.repeat && !key.repeats) return;
    if (key.up) down.set(event.code, key);
    key.run(event);
    return;
  }
}

/** @param {KeyboardEvent} event */
function released(event) {
  const key = down.get(event.code);
  down.delete(event.code);
  key?.up?.(event);
}

/** Let go of all keys: the window lost the focus and will not hear of it. */
function releaseAll() {
  for (const [code, key] of down) {
    down.delete(code);
    key.up?.(new KeyboardEvent("keyup"));
  }
}

export function listenToKeys() {
  addEventListener("keydown", pressed);
  addEventListener("keyup", released);
  addEventListener("blur", releaseAll);
}

export function showKeys() {
  const rows = [...tables].flatMap((table) => table()).filter((key) => key.says);
  return ask("Keys", (close) => [
    h("dl", { class: "keys" }, ...rows.flatMap((key) => [
      h("dt", {}, h("kbd", {}, (key.ctrl ? "Ctrl " : "") + (key.key === " " ? "Space" : key.key))),
      h("dd", {}, key.says)]),
      h("dt", {}, h("kbd", {}, "?")), h("dd", {}, "these keys")),
    h("div", { class: "row end" }, h("button", { type: "button", onclick: () => close() }, "Close"))]);
}
