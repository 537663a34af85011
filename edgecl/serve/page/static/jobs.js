/** Commands that take long: what the server says of them until they end. */

import { get } from "./api.js";
import { on } from "./state.js";

const LOOK_MS = 1500;

/**
 * Wait for a command's end. News come as events; it is asked for, too, in case one was missed.
 * @param {{request: any, state?: string}} begun what the call answered
 * @param {(news: any) => void} tell
 * @returns {Promise<any>} the last news
 */
export function finished(begun, tell) {
  return new Promise((resolve, reject) => {
    const stop = new AbortController();
    const timer = setInterval(() => get(`requests/${begun.request}`).then(hear, () => {}), LOOK_MS);
    /** @param {any} news */
    function hear(news) {
      if (stop.signal.aborted || news.request !== begun.request) return;
      if (news.state === "done" || news.state === "failed") {
        stop.abort();
        clearInterval(timer);
        if (news.state === "done") resolve(news);
        else reject(new Error(news.error ?? "It failed, and did not say why."));
      } else tell(news);
    }
    on("command", hear, stop.signal);
    if (begun.state) hear(begun);
  });
}
