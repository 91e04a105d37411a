/** Waits: each has an end, and a page that is told to stop does not sit one out. */

/**
 * Resolve after `ms`, or as soon as the browser is online again; reject when `signal` is aborted.
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
export function rest(ms, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const end = (settle, value) => {
      clearTimeout(timer);
      window.removeEventListener("online", over);
      signal.removeEventListener("abort", stopped);
      settle(value);
    };
    const over = () => end(resolve);
    const stopped = () => end(reject, signal.reason);
    const timer = setTimeout(over, ms);
    window.addEventListener("online", over);
    signal.addEventListener("abort", stopped);
  });
}

/**
 * Resolve when `target` tells of `name`; reject when `signal` is aborted.
 * @param {EventTarget} target
 * @param {string} name
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
export function heard(target, name, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    target.addEventListener(name, resolve, { once: true, signal });
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/**
 * How long to wait before try number `failures` + 1, when the service does not say: scattered, so that the pages of a
 * whole office do not come back at once.
 * @param {number} failures
 * @returns {number} milliseconds, at most 15,000
 */
export function backOff(failures) {
  return Math.min(15_000, 500 * 2 ** (failures - 1)) * (0.75 + Math.random() / 4);
}
