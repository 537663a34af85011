/** Report: what `edgecl report` writes, in a frame of its own. */

import { h, put } from "./dom.js";

/** @param {HTMLElement} place */
export function show(place) {
  const url = "/api/v1/report.html";
  const wait = h("p", { class: "quiet", role: "status" }, "The report is being made …");
  // An empty sandbox: no script, no form, no address but its own.
  const frame = h("iframe", { src: url, title: "Report", sandbox: "", onload: () => { wait.hidden = true; } });
  put(place, h("div", { class: "head" }, h("h1", {}, "Report"), h("div", { class: "row" },
    h("button", { type: "button", onclick: () => { wait.hidden = false; frame.src = url; } }, "Make it anew"),
    h("a", { class: "button", href: url, target: "_blank", rel: "noopener" }, "Open alone"))), wait, frame);
}
