/** Elements, messages and questions: the little that every screen makes of the document. */

/**
 * Make an element. Functions become listeners, known properties are set, the rest are attributes.
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...(Node | string | number | null | undefined | false)} children
 * @returns {any}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  // Browsers keep what fields hold, to fill them again or to restore a tab, and must not keep names.
  if (tag === "input" || tag === "select") element.setAttribute("autocomplete", "off");
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && name !== "list" && name !== "role") element[name] = value;
    else if (value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  put(element, ...children);
  return element;
}

/**
 * Let an element hold these children and no others.
 * @param {Element} element
 * @param {...(Node | string | number | null | undefined | false)} children
 */
export function put(element, ...children) {
  const kept = children.flat().filter((child) => child !== null && child !== undefined && child !== false);
  element.replaceChildren(...kept.map((child) => (child instanceof Node ? child : String(child))));
}

/** Set a text only where it is another one, so that a screen reader says it once. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** @param {number} n @param {string} one @param {string} [many] */
export const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
/** @param {number | null | undefined} share 0 to 1 */
export const percent = (share) =>
  share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`;
/** @param {number} seconds since the epoch */
export const when = (seconds) =>
  seconds ? new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }) : "–";

/**
 * Say something at the foot of the page for a while; errors stay until they are closed.
 * @param {string | Error} message
 * @param {{label: string, run: () => void}} [action]
 * @returns {() => void} takes it away
 */
export function toast(message, action) {
  const isError = message instanceof Error;
  const box = h("div", { class: isError ? "toast bad" : "toast", role: isError ? "alert" : "status" },
    h("span", {}, isError ? message.message : message),
    action && h("button", { type: "button", class: "plain", onclick: () => { end(); action.run(); } }, action.label),
    h("button", { type: "button", class: "plain", "aria-label": "Close this message", onclick: () => end() }, "×"));
  const end = () => box.remove();
  const place = /** @type {Element} */ (document.getElementById("toasts"));
  if (place.childElementCount > 2) place.firstElementChild?.remove();
  place.append(box);
  if (!isError) setTimeout(end, 6000);
  return end;
}

/** Run what may fail and say so; returns whether it went well. */
export async function tried(work) {
  try {
    await work();
    return true;
  } catch (error) {
    toast(/** @type {Error} */ (error));
    return false;
  }
}

/**
 * Open a dialog; resolves with what `close(value)` was given, or null.
 * @param {string} title
 * @param {(close: (value?: any) => void) => Array<Node | string | null | undefined | false>} content
 * @param {string} [kind] a class
 * @returns {Promise<any>}
 */
export function ask(title, content, kind = "") {
  return new Promise((resolve) => {
    const heading = `d${Math.random().toString(36).slice(2)}`;
    const close = (value = null) => { dialog.close(); resolve(value); dialog.remove(); };
    const dialog = h("dialog", { class: kind, "aria-labelledby": heading, oncancel: () => resolve(null),
      onclose: () => { resolve(null); dialog.remove(); } }, h("h2", { id: heading }, title));
    dialog.append(...content(close).filter(Boolean));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Ask a question that can be answered by yes. */
export const confirmed = (title, text, yes) =>
  ask(title, (close) => [h("p", {}, text), h("div", { class: "row end" },
    h("button", { type: "button", onclick: () => close(false) }, "Cancel"),
    h("button", { type: "button", class: "main", onclick: () => close(true) }, yes))]);

/**
 * A picture of the home; one that is gone is an empty place, not a broken one.
 * @param {string | null} src
 * @param {string} alt
 */
export function picture(src, alt) {
  const image = h("img", { alt, class: "thumb", draggable: false, loading: "lazy", decoding: "async",
    onerror: () => { image.removeAttribute("src"); image.classList.add("gone"); } });
  if (src) image.src = src;
  else image.classList.add("gone");
  return image;
}

/** Drop every picture that the page shows: something was unlearned, and they may show it. */
export function dropPictures() {
  for (const image of document.querySelectorAll("img.thumb")) {
    image.removeAttribute("src");
    image.classList.add("gone");
  }
}
