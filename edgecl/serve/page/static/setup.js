/** Setup: sources with their crop, motion, threshold, MQTT, password. */

import { get, post } from "./api.js";
import { boxOf, cropView, textOf, within } from "./crop.js";
import { h, put, toast, tried } from "./dom.js";
import { cameras, may, on, partOf, refreshStatus } from "./state.js";

/** Settings of a source that have a field: key, what it is, an example. */
const OF_SOURCE = [
  ["motion", "Motion: share of pixels that must change, 0 to 1", "0.02"],
  ["interval", "Interval: with motion, a frame at least so often", "10s"],
  ["threshold", "Threshold: below this score it is unsure, 0 to 1", "0.6"],
  ["vote", "Vote: how many frames", "5"],
  ["rotate", "Rotate: 0, 90, 180 or 270 degrees", "0"],
];

/** @param {HTMLElement} place @param {AbortSignal} signal */
export function show(place, signal) {
  /** @type {{values: Record<string, any>, read_only?: boolean}} */
  let config = { values: {} };
  const sources = h("div");

  /** Write one setting, and say what the server said. @param {string} key @param {string} value */
  const write = (key, value) => tried(async () => {
    const said = await post("config", { key, value });
    config.values[key] = value;
    toast(said.needs_restart ? `${key} is written; it counts from the next start on.` : `${key} is written.`);
  });

  /** @param {string} key @param {string} label @param {string} example @param {boolean} can */
  function setting(key, label, example, can) {
    const id = key.replace(/\W/g, "-");
    const field = h("input", { id, type: "text", value: String(config.values[key] ?? ""), placeholder: example, disabled: !can });
    return h("form", { class: "row bottom", onsubmit: (/** @type {Event} */ e) => { e.preventDefault(); write(key, field.value.trim()); } },
      h("span", { class: "grow" }, h("label", { htmlFor: id }, label), field), h("button", { disabled: !can }, "Save"));
  }

  /** @param {any} source */
  function card(source) {
    const view = h("div");
    const key = `source.${source.name}.crop`;
    const has = !config.read_only && `source.${source.name}.url` in config.values;
    // A crop within a crop is told in its unit; one of both units has none.
    const canCrop = has && (!source.crop || /^(([\d.]+%,){3}[\d.]+%|(\d+,){3}\d+)$/.test(source.crop));
    let showing = new AbortController();
    signal.addEventListener("abort", () => showing.abort());
    function crop() {
      const old = boxOf(source.crop);
      let next = { x: 0, y: 0, w: 1, h: 1 };
      showing.abort();
      showing = new AbortController();
      const save = h("button", { type: "button", class: "main", disabled: true, onclick: () => store(textOf(within(next, old))) }, "Save this crop");
      const store = async (/** @type {string} */ text) => {
        if (await write(key, text)) { end(); refreshStatus().catch(() => {}); }
      };
      const end = () => { showing.abort(); put(view); };
      put(view, cropView(source.name, (box) => { next = box; save.disabled = false; }, showing.signal), h("div", { class: "row" }, save,
        h("button", { type: "button", onclick: () => store("0%,0%,100%,100%") }, "Whole picture"), h("button", { type: "button", onclick: end }, "Cancel")));
    }
    async function test() {
      const image = h("img", { alt: `The newest picture of ${source.name}`, class: "thumb large", onload: () => toast(`${source.name} sends pictures.`),
        onerror: () => { image.remove(); toast(new Error(`${source.name} sent no picture.`)); } });
      put(view, image);
      image.src = `/snapshot.jpg?source=${encodeURIComponent(source.name)}&t=${Date.now()}`;
    }
    return h("section", { class: "panel" }, h("h3", {}, source.name), h("p", { class: "quiet" }, source.url ?? "", partOf(source.name) && ` · ${partOf(source.name)}`),
      h("div", { class: "row" }, h("button", { type: "button", onclick: test }, "Test"), h("button", { type: "button", onclick: crop, disabled: !canCrop }, "Draw the crop")), view,
      !has && h("p", { class: "quiet" }, "To change it here give it a table [[source]] in edgecl.toml; see the documentation of serve."),
      h("details", {}, h("summary", {}, "Motion, threshold and more"), ...OF_SOURCE.map(([name, label, example]) => setting(`source.${source.name}.${name}`, label, example, has))));
  }

  function update() {
    const found = cameras();
    put(sources, ...(found.length ? found.map(card) : [h("p", { class: "quiet" }, "No source; give one to edgecl serve.")]));
  }

  function mqtt() {
    const field = h("input", { id: "mqtt", type: "text", placeholder: "mqtt://broker/edgecl/test", required: true });
    return h("form", { class: "row bottom", onsubmit: (/** @type {Event} */ e) => {
      e.preventDefault();
      tried(async () => toast((await post("mqtt-test", { url: field.value.trim() })).said ?? "The broker took the message."));
    } }, h("span", { class: "grow" }, h("label", { htmlFor: "mqtt" }, "Address of the topic"), field), h("button", {}, "Send a test message"));
  }

  function password() {
    const role = h("select", { id: "role" }, ...["own", "teach", "look"].map((name) => h("option", { value: name }, name)));
    const field = h("input", { id: "password", type: "password", autocomplete: "new-password", minLength: 8, maxLength: 1000, required: true });
    const set = (/** @type {string | null} */ text) => tried(async () => {
      const { roles } = await post("password", { role: role.value, password: text });
      field.value = "";
      toast(roles.length ? `Everybody else is logged out. A password has: ${roles.join(", ")}.` : "Everybody else is logged out. No role has a password.");
    });
    return h("form", { class: "row bottom", onsubmit: (/** @type {Event} */ e) => { e.preventDefault(); set(field.value); } },
      h("span", {}, h("label", { htmlFor: "role" }, "Role"), role), h("span", { class: "grow" }, h("label", { htmlFor: "password" }, "New password, 8 characters or more"), field),
      h("button", {}, "Set"), h("button", { type: "button", onclick: () => set(null) }, "Remove"));
  }

  put(place, h("h1", {}, "Setup"));
  if (!may("own")) return void place.append(h("p", {}, "Only the role own may change settings."));
  place.append(h("h2", {}, "Sources"), sources, h("h2", {}, "MQTT"), mqtt(),
    h("h2", {}, "Password"), h("p", {}, "Whoever has the password of a role may log in without a link; only its hash is kept. ",
      "To be reached from other addresses the page needs one, and TLS; see the documentation of serve."), password());
  get("config").then((found) => { config = found; }, () => { config = { values: {}, read_only: true }; }).finally(() => {
    if (signal.aborted) return;
    update();
    let names = "";
    on("status", () => {
      const now = JSON.stringify(cameras());
      if (now !== names) update();
      names = now;
    }, signal);
  });
}
