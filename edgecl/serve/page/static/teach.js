/** One big button a class: as long as it is held, frames show that class. */

import { sampleUrl } from "./api.js";
import { count, h, percent, picture, put, say, toast } from "./dom.js";
import { CLASS_KEYS } from "./keys.js";
import { askName } from "./names.js";
import { emit, on, state } from "./state.js";

const RENEW_MS = 1000;
/** Below so many pictures a class is thin, and one hint asks for more. */
const FEW = 12;

/** What is held, and what can hold and let go of it. */
export class Hold {
  /** @param {(label: string | null, isNew: boolean) => Promise<any>} teach where labels go */
  constructor(teach) {
    this.teach = teach;
    /** @type {string | null} */ this.label = null;
    /** @type {string | null} */ this.last = null;
    /** How many were learned when each hold began and ended, and what this page taught itself.
     *  @type {{from: number, to?: number, uids: number[]}[]} */
    this.bursts = [];
    this.timer = 0;
    /** New until the server took it once. */ this.isNew = false;
  }

  /** @param {string} label @param {boolean} [isNew] */
  start(label, isNew = false) {
    if (this.label === label) return;
    this.stopTimer();
    this.label = this.last = label;
    this.isNew = isNew;
    const learned = state.last.progress?.learned ?? 0;
    const before = this.bursts.at(-1);
    if (before) before.to ??= learned;
    this.bursts.push({ from: learned, uids: [] });
    this.say();
    this.timer = setInterval(() => this.say(), RENEW_MS);
    emit("hold", label);
  }

  end() {
    if (this.label === null) return;
    this.stopTimer();
    this.label = null;
    emit("hold", null);
    this.teach(null, false).catch(() => {}); // it ends by itself after two seconds
  }

  stopTimer() {
    clearInterval(this.timer);
    this.timer = 0;
  }

  /** Take the last hold off the list. @returns {{n: number, uids: number[]}} what it taught */
  takeBurst() {
    const burst = this.bursts.pop();
    if (!burst) return { n: 0, uids: [] };
    return { n: (burst.to ?? state.last.progress?.learned ?? 0) - burst.from, uids: burst.uids };
  }

  async say() {
    const label = /** @type {string} */ (this.label);
    try {
      await this.teach(label, this.isNew);
      this.isNew = false;
    } catch (error) {
      const alike = /** @type {any} */ (error).body?.alike;
      this.end();
      toast(/** @type {Error} */ (error), alike && { label: `Hold “${alike}” instead`, run: () => { this.last = alike; } });
    }
  }
}

/**
 * The buttons, kept up to date until the signal aborts.
 * @param {Hold} hold @param {AbortSignal} signal
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
