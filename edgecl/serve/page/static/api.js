/** Calls of the interface; what it refuses becomes an `ApiError` with its sentence. */

const BASE = "/api/v1/";

export class ApiError extends Error {
  /** @param {string} message @param {number} status 0 without an answer @param {Record<string, any>} body */
  constructor(message, status, body = {}) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

/**
 * @param {string} method @param {string} path @param {RequestInit} [rest]
 * @returns {Promise<any>}
 */
async function call(method, path, rest = {}) {
  let response;
  try {
    response = await fetch(BASE + path, { method, credentials: "same-origin", cache: "no-store", ...rest });
  } catch {
    throw new ApiError("The server did not answer; it may have been stopped.", 0);
  }
  let body = {};
  try {
    body = await response.json();
  } catch { /* an answer without JSON has no more to say than its state */ }
  if (!response.ok) {
    throw new ApiError(body.error ?? `The server refused that (${response.status}).`, response.status, body);
  }
  return body;
}

/** @param {Record<string, any>} params those without a value are left out */
function query(params) {
  const kept = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return kept.length ? "?" + new URLSearchParams(kept.map(([name, value]) => [name, String(value)])) : "";
}

/** @param {string} path @param {Record<string, any>} [params] */
export const get = (path, params = {}) => call("GET", path + query(params));

/** @param {string} path @param {Record<string, any>} body @param {RequestInit} [rest] */
export const post = (path, body, rest = {}) =>
  call("POST", path, { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...rest });

/**
 * Send a picture to be answered, and learned if it has a label.
 * @param {Blob} blob @param {{label?: string, new?: number}} params
 */
export const send = (blob, params) =>
  call("POST", "frames" + query(params), { headers: { "Content-Type": blob.type || "image/jpeg" }, body: blob });

/** Where the picture of a sample is. @param {number | string | null | undefined} uid */
export const sampleUrl = (uid) => (uid ? `${BASE}samples/${uid}.jpg` : null);
/** Where the picture of a frame that waits is. @param {number | string} uid */
export const reviewUrl = (uid) => `${BASE}review/${uid}.jpg`;
