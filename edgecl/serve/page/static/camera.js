/** The browser's own camera and chosen files: pictures that this page sends to be learned or answered. */

import { send } from "./api.js";
import { ask, h, percent, toast } from "./dom.js";
import { meant, nameField } from "./names.js";

const SIDE = 480;
const QUALITY = 0.85;
/** At most ten pictures a second, as many as the live picture has. */
const EVERY_MS = 100;
let fields = 0;

/** Browsers give a camera to pages of this computer and to those with TLS only. */
export const hasCamera = () => isSecureContext && !!navigator.mediaDevices?.getUserMedia;

/**
 * Send pictures of the camera until the signal aborts, and show each with its answer.
 * @param {() => {label: string, isNew: boolean} | null} held what is taught now
 * @param {(answer: any, jpeg: Blob) => Promise<void> | void} show
 * @param {AbortSignal} signal
 */
export async function runCamera(held, show, signal) {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  const end = () => stream.getTracks().forEach((track) => track.stop());
  if (signal.aborted) return end();
  signal.addEventListener("abort", end);
  const video = h("video", { muted: true, playsInline: true, srcObject: stream });
  await video.play();
  const canvas = document.createElement("canvas");
  while (!signal.aborted) {
    const began = performance.now();
    const jpeg = await shot(video, canvas);
    const teach = held();
    try {
      const answer = await send(jpeg, { label: teach?.label, new: teach?.isNew ? 1 : undefined });
      if (!signal.aborted) await show(answer, jpeg);
    } catch (error) {
      if (/** @type {any} */ (error).status) toast(/** @type {Error} */ (error));
      await new Promise((resolve) => setTimeout(resolve, 1500));
    }
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, EVERY_MS - (performance.now() - began))));
  }
}

/** @param {HTMLVideoElement | ImageBitmap} from @param {HTMLCanvasElement} canvas @returns {Promise<Blob>} */
function shot(from, canvas) {
  const width = "videoWidth" in from ? from.videoWidth : from.width;
  const height = "videoHeight" in from ? from.videoHeight : from.height;
  const scale = Math.min(1, SIDE / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")).drawImage(from, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => canvas.toBlob(
    (blob) => (blob ? resolve(blob) : reject(new Error("The browser made no picture."))), "image/jpeg", QUALITY));
}

/** A field that takes pictures; a phone offers its camera. @param {(answer: any, jpeg: Blob) => void} show */
export function uploadField(show) {
  const id = `upload${++fields}`;
  const field = h("input", { type: "file", accept: "image/*", multiple: true, id, class: "hidden-field",
    onchange: async () => {
      const files = [...field.files];
      field.value = "";
      if (files.length) await upload(files, show);
    } });
  return h("span", {}, field, h("label", { htmlFor: id, class: "button" }, "Use pictures…"));
}

/** @param {File[]} files @param {(answer: any, jpeg: Blob) => void} show */
async function upload(files, show) {
  const typed = await ask("What do they show?", (close) => {
    const field = nameField({ id: "upload-name" });
    return [h("form", { method: "dialog", onsubmit: (/** @type {Event} */ e) => { e.preventDefault(); close(field.value); } },
      h("p", {}, `${files.length} chosen. With a name they are learned; without one they are only looked at.`),
      h("label", { htmlFor: "upload-name" }, "Name"), field,
      h("div", { class: "row end" }, h("button", { type: "button", onclick: () => close(null) }, "Cancel"),
        h("button", { class: "main" }, "Send")))];
  });
  if (typed === null) return;
  const found = await meant(typed);
  if (typed.trim() && !found) return;
  let failed = 0, seen = "";
  for (const [i, file] of files.entries()) {
    try {
      const image = await createImageBitmap(file);
      const jpeg = await shot(image, document.createElement("canvas"));
      image.close();
      const isNew = found?.isNew && i === failed ? 1 : undefined;
      const answer = await send(jpeg, { label: found?.label, new: isNew });
      seen = answer.state === "nothing" ? "" : `${answer.label}, ${percent(answer.score)}`;
      show(answer, jpeg);
    } catch (error) {
      failed++;
      if (failed === 1) toast(error instanceof DOMException ? new Error(`${file.name} is no picture that this browser can read.`) : /** @type {Error} */ (error));
    }
  }
  const sent = found ? `${files.length - failed} sent as ${found.label}` : `${files.length - failed} looked at${seen && `; the last one: ${seen}`}`;
  toast(sent + (failed ? `. ${failed} could not be used.` : "."));
}
