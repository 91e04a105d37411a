/** What the service does with a file once it has all of it, asked for until it is over. */

import { isPassing, read } from "./api.js";
import { backOff, rest } from "./waiting.js";

const SOON_MS = 500;
const LATEST_MS = 3000;
// A cover is a task of its own, begun when the film is stored. Behind a long queue it is seen when the page is next.
const COVER_TRIES = 40;

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

/**
 * Look at a stored file until it is all there: a film has a cover some time after it is stored.
 * @param {string} identity
 * @param {AbortSignal} signal
 * @param {(file: object) => void} changed
 */
export async function behold(identity, signal, changed) {
  let pause = SOON_MS;
  for (let tries = 0; tries < COVER_TRIES; tries++) {
    const file = await insistently(String(identity), signal);
    changed(file);
    if (file.cover_url || !file.content_type.startsWith("video/")) return;
    await rest(pause, signal);
    pause = Math.min(LATEST_MS, pause * 1.3);
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
