/** Forget: what will go in words, the name to be typed, the phases, and the receipt in words. */

import { get, post } from "./api.js";
import { h, put, say, toast, when } from "./dom.js";
import { finished } from "./jobs.js";
import { may, on, refreshClasses, seldom, state } from "./state.js";

const KINDS = { class: "A class", sample: "One picture, by its number", source: "A source" };

/** @param {HTMLElement} place @param {AbortSignal} signal @param {string} rest uid of a class, or '' */
export function show(place, signal, rest) {
  const kind = h("select", { id: "kind", onchange: () => choose() }, ...Object.entries(KINDS).map(([value, text]) => h("option", { value }, text)));
  const what = h("span", {});
  const steps = h("div", { class: "steps" });
  const receipts = h("ul", { class: "lines" });
  /** @type {any} */ let field;
  let busy = false, wanted = "";

  function choose() {
    const names = kind.value === "class" ? state.classes.map((one) => one.name)
      : kind.value === "source" ? (state.status.sources ?? []).map((/** @type {any} */ one) => one.name) : null;
    wanted ||= state.classes.find((one) => String(one.uid) === rest)?.name ?? "";
    field = kind.value === "class"
      ? h("select", { id: "what", onchange: () => { wanted = field.value; } }, ...(names ?? []).map((value) => h("option", { value }, value)))
      : h("input", { id: "what", type: "text", required: true, inputMode: kind.value === "sample" ? "numeric" : "text" });
    if (names?.includes(wanted)) field.value = wanted;
    put(what, h("label", { htmlFor: "what" }, kind.value === "sample" ? "Number" : "Name"), field);
    put(steps);
  }

  /** Say what would go. @param {Event} event */
  async function plan(event) {
    event.preventDefault();
    const asked = { kind: kind.value, name: field.value.trim() };
    if (!asked.name) return;
    put(steps, h("p", { class: "quiet", role: "status" }, "Looking at what would go …"));
    try {
      const found = await post("forget", { ...asked, dry_run: true });
      if (!signal.aborted) put(steps, ...confirm(asked, found));
    } catch (error) {
      put(steps, h("p", { class: "bad", role: "alert" }, /** @type {Error} */ (error).message));
    }
  }

  /** @param {{kind: string, name: string}} asked @param {any} found */
  function confirm(asked, found) {
    const typed = h("input", { id: "typed", type: "text", spellcheck: false, oninput: () => { go.disabled = typed.value !== asked.name; } });
    const reason = h("input", { id: "reason", type: "text", maxLength: 500 });
    const verify = h("input", { id: "verify", type: "checkbox" });
    const go = h("button", { class: "danger", disabled: true }, "Forget for good");
    return [h("h2", {}, "This will go"), h("ul", { class: "lines", id: "plan" }, ...found.lines.map((/** @type {string} */ line) => h("li", {}, line))),
      h("form", { onsubmit: (/** @type {Event} */ e) => { e.preventDefault(); carryOut({ ...asked, confirm: typed.value, reason: reason.value, verify: verify.checked }); } },
        h("p", {}, h("label", { htmlFor: "typed" }, "There is no way back. Type ", h("strong", {}, asked.name), " to go on"), typed),
        h("p", {}, h("label", { htmlFor: "reason" }, "Reason (optional; it is kept, and must not say the name)"), reason),
        h("p", {}, verify, h("label", { htmlFor: "verify" }, " Audit it afterwards, and look for what is left in every file (takes longer)")),
        h("div", { class: "row" }, go))];
  }

  /** @param {Record<string, any>} body */
  async function carryOut(body) {
    const list = h("ol", { class: "lines phases", role: "status", "aria-label": "Phases" });
    put(steps, h("h2", {}, "Forgetting"), list);
    busy = true;
    try {
      const done = await finished(await post("forget", body), (news) => {
        const text = news.phase || "waiting for the stream";
        if (list.lastElementChild?.firstChild?.textContent !== text) list.append(h("li", {}, h("span", {}, text), h("span", { class: "quiet" })));
        if (news.of > 1) say(list.lastElementChild?.lastElementChild, ` ${news.done} of ${news.of}`);
      });
      await refreshClasses().catch(() => {});
      put(steps);
      wanted = "";
      choose();
      await showReceipt(done.receipt);
      if (done.error) toast(new Error(done.error));
    } catch (error) {
      put(steps, h("p", { class: "bad", role: "alert" }, /** @type {Error} */ (error).message));
    }
    busy = false;
    soon();
  }

  /** @param {string} id */
  async function showReceipt(id) {
    const found = await get(`receipts/${id}`);
    const heading = h("h2", { tabIndex: -1 }, `Receipt ${id}`);
    put(steps, h("article", { class: "receipt" }, heading, h("ul", { class: "lines" }, ...found.lines.map((/** @type {string} */ line) => h("li", {}, line))),
      h("dl", { class: "pairs" }, h("dt", {}, "Signature"), h("dd", {}, h("code", {}, found.signature)), h("dt", {}, "Public key"), h("dd", {}, h("code", {}, found.public_key))),
      h("div", { class: "row" }, h("a", { class: "button main", href: `/api/v1/receipts/${id}.html`, target: "_blank", rel: "noopener" }, "Print or keep"))));
    heading.focus();
  }

  async function refresh() {
    const found = await get("receipts");
    put(receipts, ...(found.length ? found.map((/** @type {any} */ one) => h("li", {}, h("button", { type: "button", class: "plain",
      onclick: () => showReceipt(one.id).catch(toast) }, `Receipt ${one.id}`), h("span", { class: "quiet" }, ` ${when(one.time)}`)))
      : [h("li", { class: "quiet" }, "Nothing was forgotten yet.")]));
  }

  const soon = seldom(refresh, 500);
  on("forgotten", soon, signal);
  on("list", () => { if (!steps.childElementCount && document.activeElement !== field) choose(); }, signal);
  put(place, h("h1", {}, "Forget"),
    may("own") ? h("div", {}, h("p", {}, "What is forgotten leaves the samples, the head and the files for good, and a signed receipt says so."),
      h("form", { class: "row bottom", onsubmit: plan }, h("span", {}, h("label", { htmlFor: "kind" }, "What"), kind), what, h("button", { class: "main" }, "What would go?")),
      steps) : h("p", {}, "Only the role own may forget. Receipts can be read by all."),
    h("h2", {}, "Receipts"), receipts);
  choose();
  soon();
  /** Other tabs drop their screens when something is forgotten; this one shows the phases. */
  return { keeps: () => busy || !!steps.childElementCount };
}
