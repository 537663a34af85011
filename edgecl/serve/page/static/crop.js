/** A crop that is drawn by dragging on a picture, or moved with the keys. */

import { h, put, say } from "./dom.js";
import { draw, watch } from "./frames.js";

const STEP = 0.02;
const LEAST = 0.05;

/** @typedef {{x: number, y: number, w: number, h: number, px?: boolean}} Box shares of the picture, 0 to 1, or pixels */

/** @param {string | null | undefined} text `10%,20%,30%,40%`, or pixels `64,48,320,240` @returns {Box} all of it where there is none */
export function boxOf(text) {
  if (/^(\d+,){3}\d+$/.test(text ?? "")) {
    const [x, y, w, h] = /** @type {string} */ (text).split(",").map(Number);
    return { x, y, w, h, px: true };
  }
  const found = (text ?? "").split(",").map((part) => (part.trim().endsWith("%") ? parseFloat(part) / 100 : NaN));
  return found.length === 4 && found.every((n) => n >= 0 && n <= 1) ? { x: found[0], y: found[1], w: found[2], h: found[3] } : { x: 0, y: 0, w: 1, h: 1 };
}

/** @param {Box} box */
export const textOf = (box) => [box.x, box.y, box.w, box.h].map((n) => (box.px ? `${Math.round(n)}` : `${Math.round(n * 100)}%`)).join(",");

/** A box within a picture that is itself a part of the whole. @param {Box} inner @param {Box} outer @returns {Box} */
export const within = (inner, outer) => ({ ...outer, x: outer.x + inner.x * outer.w, y: outer.y + inner.y * outer.h, w: inner.w * outer.w, h: inner.h * outer.h });

/** @param {number} n @param {number} low @param {number} high */
const clamp = (n, low, high) => Math.min(high, Math.max(low, n));

/**
 * The picture of a source with a box to draw.
 * @param {string | null} source @param {(box: Box) => void} changed @param {AbortSignal} signal
 */
export function cropView(source, changed, signal) {
  /** @type {Box} */ let box = { x: 0, y: 0, w: 1, h: 1 };
  const canvas = h("canvas", { width: 320, height: 240, role: "img", "aria-label": "What the camera sees" });
  const frame = h("div", { class: "box" });
  const said = h("p", { class: "quiet", role: "status" }, "Drag over the part that matters, or use the arrow keys; with Shift they change its size.");
  const area = h("div", { class: "croparea", tabIndex: 0, role: "application", "aria-label": "Crop: arrow keys move it, with Shift they change its size" }, canvas, frame);

  function place() {
    Object.assign(frame.style, { left: `${box.x * 100}%`, top: `${box.y * 100}%`, width: `${box.w * 100}%`, height: `${box.h * 100}%` });
  }
  /** @param {Box} next */
  function set(next) {
    box = next;
    place();
    say(said, `Crop ${textOf(box)} (left, top, width, height)`);
    changed(box);
  }
  /** @param {PointerEvent} event */
  const at = (event) => {
    const size = canvas.getBoundingClientRect();
    return { x: clamp((event.clientX - size.left) / size.width, 0, 1), y: clamp((event.clientY - size.top) / size.height, 0, 1) };
  };
  area.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    area.focus();
    area.setPointerCapture(event.pointerId);
    const from = at(event);
    const stop = new AbortController();
    area.addEventListener("pointermove", (/** @type {PointerEvent} */ move) => {
      const to = at(move);
      const next = { x: Math.min(from.x, to.x), y: Math.min(from.y, to.y), w: Math.abs(to.x - from.x), h: Math.abs(to.y - from.y) };
      if (next.w >= LEAST && next.h >= LEAST) set(next);
    }, { signal: stop.signal });
    for (const kind of ["pointerup", "pointercancel"]) area.addEventListener(kind, () => stop.abort(), { signal: stop.signal });
  });
  area.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const [dx, dy] = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key] ?? [0, 0];
    if (!dx && !dy) return;
    event.preventDefault();
    set(event.shiftKey ? { ...box, w: clamp(box.w + dx, LEAST, 1 - box.x), h: clamp(box.h + dy, LEAST, 1 - box.y) }
      : { ...box, x: clamp(box.x + dx, 0, 1 - box.w), y: clamp(box.y + dy, 0, 1 - box.h) });
  });
  watch(source, (_, jpeg) => draw(canvas, jpeg, null), signal);
  place();
  const element = h("div");
  put(element, area, said);
  return element;
}
