/** The live picture: records of an answer and its picture from one endless response. */

const RETRY_MS = 1000;

/** @typedef {{frame: string, source: string, time: number, taught: string | null, label: string, score: number,
 *   state: "known" | "unsure" | "unknown" | "nothing", top: [string, number][], voted: string, n: number,
 *   jpeg: number}} Answer */

/** Bytes of a response, taken in pieces of any length. */
class Bytes {
  /** @param {ReadableStreamDefaultReader<Uint8Array>} reader */
  constructor(reader) {
    this.reader = reader;
    this.left = new Uint8Array(0);
  }

  /** @param {number} n @returns {Promise<Uint8Array | null>} null at the end */
  async take(n) {
    while (this.left.length < n) {
      const { value, done } = await this.reader.read();
      if (done) return null;
      const joined = new Uint8Array(this.left.length + value.length);
      joined.set(this.left);
      joined.set(value, this.left.length);
      this.left = joined;
    }
    const taken = this.left.slice(0, n);
    this.left = this.left.slice(n);
    return taken;
  }
}

/**
 * Show pictures with the answers that belong to them, one after the other, until the signal aborts.
 * The next is read when this one was shown: a slow device gets fewer.
 * @param {string | null} source its name; null shows all
 * @param {(answer: Answer, jpeg: Blob) => Promise<void> | void} show
 * @param {AbortSignal} signal
 */
export async function watch(source, show, signal) {
  const url = "/api/v1/live" + (source ? `?source=${encodeURIComponent(source)}` : "");
  while (!signal.aborted) {
    try {
      const response = await fetch(url, { signal, cache: "no-store", credentials: "same-origin" });
      if (response.ok && response.body) await read(new Bytes(response.body.getReader()), show);
    } catch { /* lost, or the screen was left; the banner of `state.js` says which */ }
    if (!signal.aborted) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

/** @param {Bytes} bytes @param {(answer: Answer, jpeg: Blob) => Promise<void> | void} show */
async function read(bytes, show) {
  for (;;) {
    const size = await bytes.take(4);
    if (!size) return;
    const head = await bytes.take(new DataView(size.buffer).getUint32(0));
    if (!head) return;
    const answer = /** @type {Answer} */ (JSON.parse(new TextDecoder().decode(head)));
    const jpeg = await bytes.take(answer.jpeg);
    if (!jpeg) return;
    await show(answer, new Blob([jpeg], { type: "image/jpeg" }));
  }
}

/**
 * Draw a picture so that it fills a canvas' width, and the rectangle that the model looks at.
 * @param {HTMLCanvasElement} canvas @param {Blob} jpeg
 * @param {number | null} share of the shorter side that the model's square keeps; null draws none
 */
export async function draw(canvas, jpeg, share) {
  let image;
  try {
    image = await createImageBitmap(jpeg);
  } catch {
    return; // a picture that cannot be decoded is not shown; the next one comes
  }
  if (canvas.width !== image.width || canvas.height !== image.height) {
    canvas.width = image.width;
    canvas.height = image.height;
  }
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.drawImage(image, 0, 0);
  image.close();
  if (!share) return;
  const side = Math.min(canvas.width, canvas.height) * share;
  const x = (canvas.width - side) / 2, y = (canvas.height - side) / 2;
  context.fillStyle = "rgb(0 0 0 / 0.35)";
  context.beginPath();
  context.rect(0, 0, canvas.width, canvas.height);
  context.rect(x, y, side, side);
  context.fill("evenodd");
  context.lineWidth = Math.max(1, canvas.width / 320);
  context.strokeStyle = "white";
  context.strokeRect(x, y, side, side);
}
