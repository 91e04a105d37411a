/** What the service does with a file once it has all of it, asked for until it is over. */

import { isPassing, read } from "./api.js";
import { backOff, rest } from "./waiting.js";

const SOON_MS = 500;
const LATEST_MS = 3000;

/** @param {string} status @returns {boolean} whether nothing will happen to it any more */
export function isFinal(status) {
  return status === "completed" || status === "failed";
}

/**
 * Follow an upload until its final status. Throws Refusal for good, the signal's reason.
 * @param {string} id
 * @param {AbortSignal} signal
 * @param {(told: object) => void} changed
 * @returns {Promise<any>} the last that was told
 */
export async function follow(id, signal, changed) {
  let last = "";
  let pause = SOON_MS;
  for (;;) {
    const told = await insistently(`upload/progress/${id}`, signal);
    const now = `${told.status} ${told.progress}`;
    pause = now === last ? Math.min(LATEST_MS, pause * 1.3) : SOON_MS;
    last = now;
    changed(told);
    if (isFinal(told.status)) return told;
    await rest(pause, signal);
  }
}

async function insistently(path, signal) {
  for (let failures = 0; ; ) {
    try {
      return await read(path, signal);
    } catch (error) {
      if (signal.aborted || !isPassing(error)) throw error;
      await rest(error.retryAfterMs || backOff(++failures), signal);
    }
  }
}
