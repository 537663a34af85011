/** The first visit: camera, one thing, another thing. */

import { h, put } from "./dom.js";
import { cameras, on, state } from "./state.js";

/** @param {{canCamera: boolean, useCamera: () => void, upload: HTMLElement, add: () => void}} ways @param {AbortSignal} signal */
export function welcome(ways, signal) {
  const element = h("section", { class: "welcome", "aria-label": "First steps" });
  let isCameraChosen = false;
  const steps = () => {
    const taught = state.classes.filter((one) => one.seen > 0).length;
    return [isCameraChosen || taught > 0, taught > 0, taught > 1];
  };
  const choose = () => { isCameraChosen = true; update(); };

  function update() {
    const done = steps();
    element.hidden = done.every(Boolean);
    if (element.hidden) return;
    const now = done.indexOf(false);
    const source = cameras()[0];
    const step = (/** @type {number} */ i, /** @type {string} */ title, /** @type {any[]} */ ...content) =>
      h("li", { class: done[i] ? "done" : i === now ? "now" : "", "aria-current": i === now ? "step" : null },
        h("strong", {}, title), ...(i === now ? content : []));
    put(element, h("h2", {}, "First steps"), h("ol", {},
      step(0, "Choose a camera", h("div", { class: "row" },
        source && h("button", { type: "button", class: "main", onclick: choose }, `This device's: ${source.name}`),
        ways.canCamera && h("button", { type: "button", onclick: () => { choose(); ways.useCamera(); } }, "This browser's"),
        ways.upload)),
      step(1, "Show one thing", h("p", {}, "Name it, then hold its button while you turn it in front of the camera."),
        h("button", { type: "button", class: "main", onclick: ways.add }, "Name it")),
      step(2, "Show another thing", h("p", {}, "The same with a second one. Then let go and look at the answer."),
        h("button", { type: "button", class: "main", onclick: ways.add }, "Name the second"))));
  }
  on("list", update, signal);
  on("status", update, signal);
  update();
  return element;
}
