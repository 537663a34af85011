/** The frame of the page: which screen is shown, and whether the server is there. */

import { dropPictures, h, put, toast } from "./dom.js";
import { listenToKeys, showKeys } from "./keys.js";
import { connect, on, refreshClasses } from "./state.js";

/** Name in the address: what it is called, and what shows it.
 * @type {Record<string, [string, () => Promise<{show: (place: HTMLElement, signal: AbortSignal, rest: string) => any}>]>} */
const SCREENS = {
  live: ["Live", () => import("./live.js")],
  review: ["Review", () => import("./review.js")],
  classes: ["Classes", () => import("./classes.js")],
  forget: ["Forget", () => import("./forget.js")],
  report: ["Report", () => import("./report.js")],
  history: ["History", () => import("./history.js")],
  setup: ["Setup", () => import("./setup.js")],
};
const LINK = {
  opening: "", open: "",
  lost: "The server is gone. What you see is old; this page goes on as soon as it is back.",
  out: "Your session is over. Open the address that edgecl serve printed, or sign in again.",
};

/** What comes so soon after a connection began was so before. */
const OLD_NEWS_MS = 700;

const place = /** @type {HTMLElement} */ (document.getElementById("screen"));
const banner = /** @type {HTMLElement} */ (document.getElementById("banner"));
const nav = /** @type {HTMLElement} */ (document.getElementById("nav"));
let shown = new AbortController();
/** What the screen said of itself. @type {{keeps?: () => boolean} | undefined} */
let current;

/** Show the screen that the address names; what comes after its name is the screen's own. */
async function route() {
  const [, name = "live", rest = ""] = /^#?(\w*)\/?(.*)$/.exec(location.hash) ?? [];
  const key = name in SCREENS ? name : "live";
  shown.abort();
  const mine = (shown = new AbortController());
  for (const link of nav.querySelectorAll("a")) {
    if (link.hash === `#${key}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${SCREENS[key][0]} – edgecl`;
  try {
    const screen = await SCREENS[key][1]();
    if (mine.signal.aborted) return;
    place.className = key;
    put(place);
    current = screen.show(place, mine.signal, decodeURIComponent(rest));
  } catch {
    put(place, h("p", {}, "This screen could not be loaded; is the server there?"));
  }
}

/** @param {string} text @param {Node} [more] */
function setBanner(text, more) {
  put(banner, text, more);
  banner.hidden = !text;
}

put(nav, ...Object.entries(SCREENS).map(([key, [name]]) => h("a", { href: `#${key}` }, name)));
document.getElementById("help")?.addEventListener("click", showKeys);
addEventListener("hashchange", () => {
  route();
  place.focus({ preventScroll: true });
  scrollTo(0, 0);
});
/** When the last connection began; before the first one that is never. */
let openedAt = Infinity, hasBeenLost = false;
on("link", (link) => {
  if (link === "open") openedAt = performance.now();
  else hasBeenLost = true;
  setBanner(LINK[/** @type {keyof LINK} */ (link)],
    link === "out" ? h("a", { href: "/" }, "Sign in") : undefined);
});
on("stopped", () => setBanner("The stream has ended; nothing new is seen."));
on("forgotten", () => {
  // A connection begins with the last news of each kind. A page that is new has nothing to drop; one
  // that was cut off may have missed it.
  if (!hasBeenLost && performance.now() - openedAt < OLD_NEWS_MS) return;
  dropPictures();
  refreshClasses().catch(() => {}).finally(() => current?.keeps?.() || route());
  if (performance.now() - openedAt > OLD_NEWS_MS) toast("Something was forgotten; this page dropped its pictures.");
});
listenToKeys();
connect();
route();
