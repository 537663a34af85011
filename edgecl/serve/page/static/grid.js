/** A grid of pictures to select from, in groups: mouse, rubber band, keys, and long press. */

import { ask, h, picture } from "./dom.js";

const LONG_PRESS_MS = 450;
const BAND_PX = 6;

/** @typedef {{uid: number, src: string, title: string, note?: string, group: number | string, heading?: string}} Item */

export class Grid {
  /** @param {string} label @param {AbortSignal} signal @param {() => void} changed called when the selection is another */
  constructor(label, signal, changed) {
    this.changed = changed;
    /** @type {Set<number>} */ this.selected = new Set();
    /** @type {Map<number, {item: Item, option: HTMLElement}>} */ this.shown = new Map();
    /** @type {number | null} */ this.anchor = null;
    this.element = h("div", { class: "grid", role: "listbox", "aria-label": label, "aria-multiselectable": "true" });
    this.band = h("div", { class: "band", hidden: true });
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("pointerdown", (event) => this.press(event, signal));
    this.element.addEventListener("contextmenu", (event) => event.preventDefault());
    signal.addEventListener("abort", () => this.band.remove());
    document.body.append(this.band);
  }

  /** Show these items; what was selected stays selected where it is still there. @param {Item[]} items */
  set(items) {
    const uids = new Set(items.map((item) => item.uid));
    for (const uid of this.shown.keys()) if (!uids.has(uid)) this.drop(uid);
    /** @type {Map<string, HTMLElement>} */
    const groups = new Map([...this.element.children].map((group) => [/** @type {HTMLElement} */ (group).dataset.group ?? "", /** @type {HTMLElement} */ (group)]));
    for (const item of items) {
      const key = String(item.group);
      let group = groups.get(key);
      if (!group) groups.set(key, (group = h("div", { role: "group", class: "group", "data-group": key, "aria-label": item.heading ?? "Pictures" })));
      const option = this.shown.get(item.uid)?.option ?? this.make(item);
      if (item.heading) group.dataset.heading = item.heading;
      if (option.parentElement !== group) group.append(option);
      this.shown.set(item.uid, { item, option });
    }
    const order = [...new Set(items.map((item) => String(item.group)))];
    for (const [key, group] of groups) if (!order.includes(key)) group.remove();
    order.forEach((key, i) => {
      const group = /** @type {HTMLElement} */ (groups.get(key));
      if (this.element.children[i] !== group) this.element.insertBefore(group, this.element.children[i] ?? null);
    });
    if (!this.options.some((option) => option.tabIndex === 0) && this.options[0]) this.options[0].tabIndex = 0;
    this.changed();
  }

  /** @param {Item} item */
  make(item) {
    return h("div", { role: "option", class: "option", tabIndex: -1, "aria-selected": "false", "aria-label": item.title, title: item.title,
      "data-uid": String(item.uid) }, picture(item.src, ""), item.note && h("span", { class: "note" }, item.note));
  }

  /** Take items out at once, before the server said so. @param {Iterable<number>} uids */
  remove(uids) {
    const options = this.options, at = options.findIndex((option) => option === document.activeElement);
    for (const uid of uids) this.drop(uid);
    const left = this.options;
    if (at >= 0 && left.length) this.focus(left[Math.min(at, left.length - 1)]);
    this.changed();
  }

  /** @param {number} uid */
  drop(uid) {
    const option = this.shown.get(uid)?.option;
    const group = option?.parentElement;
    option?.remove();
    if (group && !group.childElementCount) group.remove();
    this.shown.delete(uid);
    this.selected.delete(uid);
  }

  /** @returns {HTMLElement[]} in the order in which they are shown */
  get options() {
    return [...this.element.querySelectorAll(".option")];
  }

  /** @param {number} uid @param {boolean} is */
  mark(uid, is) {
    if (is) this.selected.add(uid);
    else this.selected.delete(uid);
    this.shown.get(uid)?.option.setAttribute("aria-selected", String(is));
  }

  /** @param {Iterable<number>} uids */
  select(uids) {
    const wanted = new Set(uids);
    for (const uid of this.shown.keys()) this.mark(uid, wanted.has(uid));
    this.changed();
  }

  /** @param {HTMLElement} option */
  focus(option) {
    for (const other of this.element.querySelectorAll(".option[tabindex='0']")) /** @type {HTMLElement} */ (other).tabIndex = -1;
    option.tabIndex = 0;
    option.focus();
  }

  /** All between the last one and this one, as they are shown. @param {number} uid */
  range(uid) {
    const uids = this.options.map((option) => Number(option.dataset.uid));
    const [from, to] = [uids.indexOf(this.anchor ?? uid), uids.indexOf(uid)].sort((a, b) => a - b);
    for (const one of uids.slice(Math.max(0, from), to + 1)) this.mark(one, true);
    this.changed();
  }

  /** Select the group of an item; where it is selected already, all. @param {HTMLElement | null} option */
  selectGroup(option) {
    const group = option?.closest(".group") ?? this.element;
    let within = [...group.querySelectorAll(".option")];
    if (within.every((one) => one.getAttribute("aria-selected") === "true")) within = this.options;
    for (const one of within) this.mark(Number(/** @type {HTMLElement} */ (one).dataset.uid), true);
    this.changed();
  }

  /** @param {number} uid */
  toggle(uid) {
    this.mark(uid, !this.selected.has(uid));
    this.anchor = uid;
    this.changed();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const option = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest(".option"));
    if (!option) return;
    const uid = Number(option.dataset.uid);
    const to = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: "up", ArrowDown: "down", Home: "home", End: "end" }[event.key];
    if (to !== undefined) {
      const next = this.neighbour(option, to);
      if (event.shiftKey && this.anchor === null) this.anchor = uid;
      if (next) this.focus(next);
      if (next && event.shiftKey) this.range(Number(next.dataset.uid));
      else this.anchor = null;
    } else if (event.key === " ") event.shiftKey ? this.range(uid) : this.toggle(uid);
    else if (event.key.toLowerCase() === "a" && (event.ctrlKey || event.metaKey)) this.selectGroup(option);
    else if (event.key === "Escape") this.select([]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @param {HTMLElement} option @param {any} to */
  neighbour(option, to) {
    const options = this.options, at = options.indexOf(option);
    if (to === "home") return options[0];
    if (to === "end") return options.at(-1);
    if (typeof to === "number") return options[at + to];
    const here = option.getBoundingClientRect();
    const lies = options.map((other) => ({ other, box: other.getBoundingClientRect() }))
      .filter(({ box }) => (to === "up" ? box.bottom <= here.top + 1 : box.top >= here.bottom - 1));
    const far = (/** @type {DOMRect} */ box) => Math.abs(box.top - here.top) * 4 + Math.abs(box.left - here.left);
    return lies.sort((a, b) => far(a.box) - far(b.box))[0]?.other;
  }

  /** @param {PointerEvent} event @param {AbortSignal} signal */
  press(event, signal) {
    if (event.button !== 0) return;
    const option = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest(".option"));
    const uid = Number(option?.dataset.uid);
    const begun = { x: event.clientX, y: event.clientY };
    const isMouse = event.pointerType === "mouse";
    const before = new Set(event.shiftKey || event.ctrlKey ? this.selected : []);
    let isDone = false;
    const stop = new AbortController();
    const end = () => { clearTimeout(timer); stop.abort(); this.band.hidden = true; };
    const timer = isMouse ? 0 : setTimeout(() => {
      isDone = true;
      if (option) this.toggle(uid);
      navigator.vibrate?.(10);
    }, LONG_PRESS_MS);
    const options = { signal: AbortSignal.any([signal, stop.signal]) };
    addEventListener("pointermove", (move) => {
      if (Math.hypot(move.clientX - begun.x, move.clientY - begun.y) < BAND_PX && !isDone) return;
      clearTimeout(timer);
      if (isMouse) { isDone = true; this.stretch(begun, move, before); }
    }, options);
    addEventListener("pointercancel", end, options);
    addEventListener("pointerup", () => {
      end();
      if (isDone) return;
      if (!option) return isMouse && this.select([]);
      this.focus(option);
      if (event.shiftKey) this.range(uid);
      else if (isMouse || this.selected.size) this.toggle(uid);
      else this.enlarge(uid);
    }, options);
    if (isMouse) event.preventDefault(); // no selection of text, no dragging of pictures
  }

  /** @param {{x: number, y: number}} from @param {PointerEvent} to @param {Set<number>} before */
  stretch(from, to, before) {
    const box = { left: Math.min(from.x, to.clientX), right: Math.max(from.x, to.clientX), top: Math.min(from.y, to.clientY), bottom: Math.max(from.y, to.clientY) };
    this.band.hidden = false;
    Object.assign(this.band.style, { left: `${box.left}px`, top: `${box.top}px`, width: `${box.right - box.left}px`, height: `${box.bottom - box.top}px` });
    for (const option of this.options) {
      const b = option.getBoundingClientRect(), uid = Number(option.dataset.uid);
      const touches = b.left < box.right && b.right > box.left && b.top < box.bottom && b.bottom > box.top;
      this.mark(uid, touches || before.has(uid));
    }
    this.changed();
  }

  /** Show one large; on a phone a tap does so. @param {number} uid */
  enlarge(uid) {
    const found = this.shown.get(uid)?.item;
    if (found) ask(found.title, (close) => [h("img", { src: found.src, alt: found.title, class: "thumb large" }),
      h("div", { class: "row end" }, h("button", { type: "button", onclick: () => { close(); this.toggle(uid); } }, "Select"),
        h("button", { type: "button", onclick: () => close() }, "Close"))]);
  }
}
