/** One big button a class: as long as it is held, frames show that class. */

import { sampleUrl } from "./api.js";
import { count, h, percent, picture, put, say } from "./dom.js";
import { CLASS_KEYS } from "./keys.js";
import { askName } from "./names.js";
import { on, state } from "./state.js";

/** Below so many pictures a class is thin, and one hint asks for more. */
const FEW = 12;

/**
 * The buttons, kept up to date until the signal aborts.
 * @param {import("./hold.js").Hold} hold @param {AbortSignal} signal
 */
export function teachButtons(hold, signal) {
  /** Classes that were named and not taught yet. @type {Map<string, boolean>} */
  const named = new Map();
  const list = h("div", { class: "teach" });
  const hint = h("p", { class: "hint", role: "status" });
  /** @type {Map<string, HTMLButtonElement>} */
  const buttons = new Map();

  const names = () => [...state.classes.map((one) => one.name),
    ...[...named.keys()].filter((name) => !state.classes.some((one) => one.name === name))];
  const start = (/** @type {string} */ name) => hold.start(name, named.get(name));

  /** @param {string} name */
  function make(name) {
    const button = h("button", { type: "button", class: "class", "aria-pressed": "false" });
    button.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
      if (event.button !== 0) return;
      button.setPointerCapture(event.pointerId);
      start(name);
    });
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(kind, () => hold.end());
    button.addEventListener("contextmenu", (/** @type {Event} */ event) => event.preventDefault());
    button.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== " " && event.key !== "Enter") return;
      event.preventDefault();
      event.stopPropagation();
      if (!event.repeat) start(name);
    });
    button.addEventListener("keyup", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== " " && event.key !== "Enter") return;
      event.preventDefault(); // or some browsers make a click of it
      hold.end();
    });
    button.addEventListener("blur", () => hold.end());
    // Without a pointer (a screen reader's click) it is switched on and off.
    button.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      if (event.detail === 0 && event.isTrusted) hold.label === name ? hold.end() : start(name);
    });
    return button;
  }

  function update() {
    const wanted = names();
    for (const [name, button] of buttons) if (!wanted.includes(name)) { button.remove(); buttons.delete(name); }
    wanted.forEach((name, i) => {
      const one = state.classes.find((c) => c.name === name);
      if (one) named.delete(name);
      const button = buttons.get(name) ?? make(name);
      const src = sampleUrl(one?.last);
      if (button.dataset.src !== String(src)) {
        button.dataset.src = String(src);
        put(button, picture(src, ""), h("span", { class: "name" }), h("span", { class: "quiet" }),
          h("kbd", { "aria-hidden": "true" }));
      }
      const [label, counts, key] = button.querySelectorAll("span, kbd");
      say(label, name);
      say(counts, one ? `${one.kept + one.held_out} kept` + (one.accuracy === null || one.accuracy === undefined ? "" : `, ${percent(one.accuracy)} right`) : "new: hold to teach");
      say(key, CLASS_KEYS[i] ?? "");
      key.hidden = i >= CLASS_KEYS.length;
      button.setAttribute("aria-label", `Hold to teach ${name}${one ? `, ${count(one.kept, "picture")}` : ""}`);
      button.setAttribute("aria-pressed", String(hold.label === name));
      if (list.children[i] !== button) list.insertBefore(button, list.children[i] ?? null);
      buttons.set(name, button);
    });
    const thin = state.classes.filter((one) => one.seen < FEW).sort((a, b) => a.seen - b.seen)[0];
    say(hint, hold.label === null && thin && state.classes.length > 1
      ? `Show ${thin.name} from other sides, too (${count(thin.seen, "picture")} so far).` : "");
  }

  async function add() {
    const found = await askName("New class", "Add");
    if (!found) return;
    if (found.isNew) named.set(found.label, true);
    hold.last = found.label;
    update();
    buttons.get(found.label)?.focus();
  }

  const plus = h("button", { type: "button", class: "class plus", onclick: add },
    h("span", { class: "big", "aria-hidden": "true" }, "+"), h("span", { class: "name" }, "New class"));
  list.append(plus);
  on("list", update, signal);
  on("hold", update, signal);
  signal.addEventListener("abort", () => hold.end());
  document.addEventListener("visibilitychange", () => document.hidden && hold.end(), { signal });
  update();
  return { element: h("div", {}, list, hint), names, start, add, named, update };
}
