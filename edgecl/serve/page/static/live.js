/** Live: the picture with its answer, buttons to teach with, and what was taught last. */

import { post } from "./api.js";
import { answerView } from "./answer.js";
import { hasCamera, runCamera, uploadField } from "./camera.js";
import { count, h, put, say, toast, tried } from "./dom.js";
import { draw, watch } from "./frames.js";
import { Hold } from "./hold.js";
import { CLASS_KEYS, useKeys } from "./keys.js";
import { cameras, on, partOf, state } from "./state.js";
import { strip } from "./strip.js";
import { teachButtons } from "./teach.js";
import { welcome } from "./welcome.js";

const OWN = "(this browser's camera)";
const STALE_MS = 3000;
/** Whose hand holds: two pages do not teach at once. */
const HAND = Math.random().toString(36).slice(2);

/** Say what was seen and what was left out, whole and honest. @param {any} p */
function counters(p) {
  if (!p) return "Nothing was seen yet.";
  const rate = p.samples_per_second ?? (p.seconds ? p.seen / p.seconds : null);
  const parts = [...(rate === null ? [] : [`${rate.toFixed(rate < 10 ? 1 : 0)}/s`]), `${count(p.seen ?? 0, "frame")} seen`, `${p.learned ?? 0} learned`];
  const more = [["duplicates", (/** @type {number} */ n) => `${count(n, "near-duplicate")} left out`], ["stale", (/** @type {number} */ n) => `${n} too old`],
    ["held_out", (/** @type {number} */ n) => `${n} kept to test on`], ["undone", (/** @type {number} */ n) => `${n} taken back`],
    ["skipped", (/** @type {number} */ n) => `${n} could not be used`], ["dropped", (/** @type {number} */ n) => `${n} replaced by newer ones`]];
  for (const [name, says] of more) if (p[/** @type {string} */ (name)]) parts.push(/** @type {any} */ (says)(p[/** @type {string} */ (name)]));
  const lost = Math.max(p.reconnects ?? 0, p.stalls ?? 0);
  if (lost) parts.push(`camera lost ${lost}×`);
  return parts.join(" · ");
}

/** @param {HTMLElement} place @param {AbortSignal} signal */
export function show(place, signal) {
  const canvas = h("canvas", { width: 320, height: 240, role: "img", "aria-label": "What the camera sees" });
  const stale = h("p", { class: "stale", hidden: true });
  const part = h("figcaption", { class: "quiet" });
  const view = answerView();
  const line = h("p", { class: "quiet counters" });
  const chooser = h("select", { "aria-label": "Camera", onchange: () => choose(chooser.value) });
  let watching = new AbortController(), seenAt = 0, isOwn = false;
  /** @type {any} */ let own = null;

  const hold = new Hold((label, isNew) => {
    if (!isOwn) return post("teach", { label, hand: HAND, ...(chooser.value ? { source: chooser.value } : {}), ...(isNew ? { new: true } : {}) });
    own = label === null ? null : { label, isNew };
    return Promise.resolve(); // the pictures tell the times
  });
  const buttons = teachButtons(hold, signal);
  const upload = uploadField((answer, jpeg) => shown(answer, jpeg));

  /** @param {any} answer @param {Blob} jpeg */
  async function shown(answer, jpeg) {
    await draw(canvas, jpeg, state.status.looks_at ?? null);
    view.show(answer);
    say(part, isOwn ? "" : partOf(answer.source ?? chooser.value));
    seenAt = performance.now();
    stale.hidden = true;
  }

  /** @param {string} name of a source, or the browser's camera */
  function choose(name) {
    watching.abort();
    hold.end();
    own = null;
    const mine = (watching = new AbortController());
    isOwn = name === OWN;
    chooser.value = name;
    seenAt = performance.now();
    view.clear("Waiting for the first picture.");
    if (!isOwn) return void watch(name || null, shown, mine.signal);
    runCamera(() => own, (answer, jpeg) => {
      if (answer.taught) hold.note(answer.time);
      return shown(answer, jpeg);
    }, mine.signal).catch((error) => {
      toast(new Error(`The browser gave no camera: ${error.message}. Allow it in the address bar, or use pictures.`));
      choose(chooser.options[0].value);
    });
  }

  function sources() {
    const found = cameras();
    const all = [...(found.length === 1 ? [] : [["", found.length ? "All cameras" : "No camera of the device"]]),
      ...found.map(({ name }) => [name, name]),
      ...(hasCamera() ? [[OWN, "This browser's camera"]] : [])];
    const kept = chooser.value;
    put(chooser, ...all.map(([value, text]) => h("option", { value }, text)));
    if (seenAt && all.some(([value]) => value === kept)) chooser.value = kept;
    else choose(all[0][0]); // now that it is known which there are
  }

  async function takeBack() {
    await tried(async () => {
      const n = await hold.takeBack();
      toast(n ? `${count(n, "frame")} of the last burst taken back.` : "Nothing was taught since this page was opened, or all of it was taken back.");
    });
  }

  useKeys(() => [
    ...buttons.names().slice(0, CLASS_KEYS.length).map((name, i) => ({ key: CLASS_KEYS[i], says: `hold to teach ${name}`,
      run: () => buttons.start(name), up: () => hold.end() })),
    { key: " ", says: hold.last ? `hold to teach ${hold.last} (the last class)` : "hold to teach the last class", run: () => hold.last && buttons.start(hold.last), up: () => hold.end() },
    { key: "+", says: "a new class", run: () => buttons.add() },
    { key: "u", says: "take the last burst back", run: takeBack },
    { key: "z", ctrl: true, says: "take the last burst back", run: takeBack },
  ], signal);

  put(place, h("h1", { class: "unseen" }, "Live"),
    h("div", { class: "see" }, view.element, h("figure", {}, canvas, stale, part)),
    h("div", { class: "do" }, welcome({ canCamera: hasCamera(), useCamera: () => choose(OWN), upload: uploadField(shown), add: buttons.add }, signal),
      h("h2", {}, "Hold to teach"), buttons.element,
      h("button", { type: "button", onclick: takeBack }, "Take the last burst back ", h("kbd", { "aria-hidden": "true" }, "u")),
      strip(signal)),
    h("div", { class: "more" }, h("div", { class: "row" }, chooser, upload), line));

  say(line, counters(state.last.progress));
  on("progress", (data) => say(line, counters(data)), signal);
  on("status", sources, signal);
  on("hold", (label) => place.classList.toggle("holding", label !== null), signal);
  const clock = setInterval(() => {
    const gone = performance.now() - seenAt;
    stale.hidden = gone < STALE_MS;
    if (!stale.hidden) say(stale, `No new picture for ${Math.round(gone / 1000)} s`);
  }, 500);
  signal.addEventListener("abort", () => { clearInterval(clock); watching.abort(); });
  sources();
}
