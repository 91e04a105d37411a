/** The service's calls: where they are, on whose behalf they are made, and how they end when they do not succeed. */

const BASE = new URL("../../api/file/", import.meta.url);
const KEPT = "asynch.token";
const MOST_MS = 30_000;

/** The service answered, and the answer is no. */
export class Refusal extends Error {
  /**
   * @param {number} status
   * @param {{error?: string, code?: string}} told the problem document
   * @param {number} retryAfterMs 0 where the service does not say
   */
  constructor(status, told, retryAfterMs) {
    super(told.error || `The service answered ${status}.`);
    this.status = status;
    this.code = told.code || "";
    this.retryAfterMs = retryAfterMs;
  }
}

/** There was no answer. */
export class Broken extends Error {
  retryAfterMs = 0;
}

/** Dispatches `needed` when a call was refused because it proves nothing, `granted` once there is a proof again. */
export const access = new EventTarget();

/** @returns {string} the key or token of this tab; empty without one */
export function token() {
  return sessionStorage.getItem(KEPT) || "";
}

/** @param {string} text empty to forget it */
export function keepToken(text) {
  if (text) sessionStorage.setItem(KEPT, text);
  else sessionStorage.removeItem(KEPT);
}

/**
 * Who sends, without the secret part: what one person left unfinished is not shown to the next one at this browser.
 * @returns {string}
 */
export function owner() {
  const key = /^ak_\d+/.exec(token());
  if (key) return key[0];
  try {
    const told = JSON.parse(atob(token().split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return JSON.stringify([told.iss, told.sub]);
  } catch {
    return "";
  }
}

/**
 * @param {string} path below /api/file/
 * @returns {string}
 */
export function address(path) {
  return new URL(path, BASE).href;
}

/** @returns {Record<string, string>} headers that every call needs */
export function proof() {
  return token() ? { Authorization: `Bearer ${token()}` } : {};
}

/**
 * What to throw for an answer that is no success.
 * @param {number} status
 * @param {string} text
 * @param {string | null} retryAfter the header
 * @returns {Refusal}
 */
export function refusal(status, text, retryAfter) {
  if (status === 401) access.dispatchEvent(new Event("needed"));
  const seconds = Number(retryAfter);
  let told = {};
  try {
    told = JSON.parse(text);
  } catch {
    // a proxy on the way speaks HTML, which is not for people
  }
  return new Refusal(status, told, seconds > 0 ? Math.min(seconds, 60) * 1000 : 0);
}

/**
 * Make a call. Throws Refusal, Broken, or the signal's reason.
 * @param {string} path below /api/file/
 * @param {{method?: string, headers?: Record<string, string>, signal?: AbortSignal}} [options]
 * @returns {Promise<Response>}
 */
export async function call(path, { method = "GET", headers = {}, signal } = {}) {
  const limit = AbortSignal.timeout(MOST_MS);
  const options = { method, headers: { ...proof(), ...headers }, cache: "no-store" };
  try {
    const answer = await fetch(address(path), { ...options, signal: signal ? AbortSignal.any([signal, limit]) : limit });
    if (answer.ok) return answer;
    throw refusal(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  } catch (error) {
    signal?.throwIfAborted();
    throw error instanceof Refusal ? error : new Broken("The service does not answer.");
  }
}

/**
 * @param {string} path below /api/file/
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function read(path, signal) {
  const answer = await call(path, { signal });
  try {
    return await answer.json();
  } catch {
    signal?.throwIfAborted();
    throw new Broken("The answer ended too early.");
  }
}

/**
 * Whether the same call may succeed in a while.
 * @param {unknown} error
 * @returns {boolean}
 */
export function isPassing(error) {
  if (error instanceof Broken) return true;
  return error instanceof Refusal && (error.status >= 500 || [408, 423, 425, 429].includes(error.status));
}
