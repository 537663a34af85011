/** The answer in letters that can be read from two metres, and what else it might be. */

import { h, percent, put, say } from "./dom.js";

/** @typedef {import("./frames.js").Answer} Answer */

/** @param {Answer} answer @returns {[string, string]} what is said, and what is said below it */
function words(answer) {
  const best = answer.top[0]?.[0] ?? answer.label;
  if (answer.state === "nothing") return ["nothing yet", "Nothing was taught. Hold a button and show something."];
  if (answer.state === "unknown") return ["unknown", best && best !== "unknown" ? `Looks like nothing that was taught; nearest is ${best}.` : "Looks like nothing that was taught."];
  if (answer.state === "unsure") return [answer.label + "?", "Unsure: the score is below the threshold."];
  return [answer.label, answer.taught ? `Taught as ${answer.taught}.` : ""];
}

/** @returns {{element: HTMLElement, show: (answer: Answer) => void, clear: (text: string) => void}} */
export function answerView() {
  const big = h("p", { class: "big", role: "status" });
  const below = h("p", { class: "quiet" });
  const bar = h("i"), score = h("span", { class: "number" });
  const top = h("ol", { class: "top", "aria-label": "Best classes" });
  const element = h("section", { class: "answer", "aria-label": "Answer" }, big,
    h("div", { class: "score" }, h("div", { class: "bar", "aria-hidden": "true" }, bar), score), below, top);

  /** @param {number} i */
  const row = (i) => {
    while (top.children.length <= i) {
      top.append(h("li", {}, h("span", { class: "name" }), h("div", { class: "bar", "aria-hidden": "true" }, h("i")), h("span", { class: "number" })));
    }
    return /** @type {HTMLElement} */ (top.children[i]);
  };

  return {
    element,
    show(answer) {
      const [what, why] = words(answer);
      say(big, what);
      say(below, why);
      element.dataset.state = answer.state;
      big.classList.toggle("long", what.length > 12);
      const has = answer.state !== "nothing";
      bar.style.width = `${has ? answer.score * 100 : 0}%`;
      say(score, has ? percent(answer.score) : "");
      answer.top.slice(0, 3).forEach(([name, share], i) => {
        const [label, line, number] = row(i).children;
        say(label, name);
        /** @type {HTMLElement} */ (line.firstElementChild).style.width = `${share * 100}%`;
        say(number, percent(share));
      });
      while (top.children.length > Math.min(3, answer.top.length)) top.lastElementChild?.remove();
    },
    clear(text) {
      say(big, "–");
      say(below, text);
      element.dataset.state = "nothing";
      bar.style.width = "0";
      say(score, "");
      put(top);
    },
  };
}
