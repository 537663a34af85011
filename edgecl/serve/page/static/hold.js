/** What is held: said to the server again and again until it is let go, one word after the other. */

import { get, post } from "./api.js";
import { toast } from "./dom.js";
import { emit } from "./state.js";

const RENEW_MS = 1000;
/** What was on its way when the button was let go is learned by then. */
const LEARNED_MS = 500;
const MOST_TAKEN_BACK = 500;

/** @typedef {{label: string, from?: number, to?: number, endedAt?: number}} Burst times are the server's, seconds */

export class Hold {
  /** @param {(label: string | null, isNew: boolean) => Promise<{time?: number} | void>} teach where labels go */
  constructor(teach) {
    this.teach = teach;
    /** @type {string | null} */ this.label = null;
    /** @type {string | null} */ this.last = null;
    /** What was held and not taken back. @type {Burst[]} */ this.bursts = [];
    this.timer = 0;
    /** New until the server took it once. */ this.isNew = false;
    /** A word that overtook another would end a hold, or go on with it. */ this.said = Promise.resolve();
  }

  /** @param {string} label @param {boolean} [isNew] */
  start(label, isNew = false) {
    if (this.label === label) return;
    this.end();
    this.label = this.last = label;
    this.isNew = isNew;
    const burst = { label };
    this.bursts.push(burst);
    this.say(label, burst);
    this.timer = setInterval(() => this.say(label, burst), RENEW_MS);
    emit("hold", label);
  }

  end() {
    if (this.label === null) return;
    clearInterval(this.timer);
    this.label = null;
    const burst = /** @type {Burst} */ (this.bursts.at(-1));
    burst.endedAt = Date.now();
    emit("hold", null);
    this.say(null, burst);
  }

  /** Frames of a burst were taken at this time, too. @param {number | undefined} time of the server @param {Burst} [burst] */
  note(time = Date.now() / 1000, burst = this.bursts.at(-1)) {
    if (!burst) return;
    burst.from ??= time;
    burst.to = time;
  }

  /** @param {string | null} label @param {Burst} burst */
  say(label, burst) {
    this.said = this.said.then(async () => {
      try {
        const answer = await this.teach(label, this.isNew);
        if (answer) this.note(answer.time, burst);
        this.isNew = false;
      } catch (error) {
        if (label === null) return; // it ends by itself after two seconds
        if (this.label === label) this.end();
        const { alike } = /** @type {any} */ (error).body ?? {};
        toast(/** @type {Error} */ (error), alike && { label: `Take “${alike}”`, run: () => { this.last = alike; } });
      }
    });
  }

  /** Take back what the last hold taught. @returns {Promise<number>} how many frames; 0 if there is none */
  async takeBack() {
    const burst = this.bursts.pop();
    if (!burst) return 0;
    await this.said;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, LEARNED_MS - (Date.now() - (burst.endedAt ?? 0)))));
    const { from = Infinity, to = 0 } = burst;
    const uids = (await get("samples", { class: burst.label, limit: MOST_TAKEN_BACK }))
      .filter((/** @type {any} */ one) => one.role !== "waiting" && one.time >= from && one.time <= to).map((/** @type {any} */ one) => one.uid);
    if (uids.length) await post("undo", { uids });
    return uids.length || this.takeBack();
  }
}
