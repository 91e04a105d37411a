/** What this browser remembers of uploads that are not over: nothing of their content, and each owner's apart. */

import { owner } from "./api.js";

/** @typedef {{owner: string, id: string, name: string, size: number, modified: number, sent: number}} Remembered */

const PREFIX = "asynch.upload:";

/**
 * Write down, or write anew. A browser that keeps nothing does without resuming after a reload.
 * @param {Remembered} upload
 */
export function remember(upload) {
  try {
    localStorage.setItem(place(upload), JSON.stringify(upload));
  } catch {
    // full or forbidden: the upload itself needs none of this
  }
}

/** @param {Remembered} upload */
export function forget(upload) {
  try {
    localStorage.removeItem(place(upload));
  } catch {
    // forbidden, so nothing is there
  }
}

/** @returns {Remembered[]} by name */
export function remembered() {
  try {
    return Object.keys(localStorage)
      .filter((key) => key.startsWith(placesOf(owner())))
      .map((key) => JSON.parse(localStorage.getItem(key)))
      .sort((a, b) => a.name.localeCompare(b.name));
  } catch {
    return [];
  }
}

/**
 * Whether a file is, by all that a browser tells of it, the one of that upload.
 * @param {File} file
 * @param {Remembered} upload
 * @returns {boolean}
 */
export function isSame(file, upload) {
  return file.name === upload.name && file.size === upload.size && file.lastModified === upload.modified;
}

/**
 * Have an upload until `signal` is aborted: of the pages of this browser the last one that asks has it. Otherwise two
 * would take it from each other at the service, again and again. Browsers know this under https and on this machine.
 * @param {string} id
 * @param {AbortSignal} signal
 * @param {() => void} lost called when another page has it
 */
export function hold(id, signal, lost) {
  const over = new Promise((resolve) => signal.addEventListener("abort", resolve));
  navigator.locks?.request(`${PREFIX}${id}`, { steal: true }, () => over).catch(() => signal.aborted || lost());
}

function placesOf(someone) {
  return `${PREFIX}${encodeURIComponent(someone)}:`;
}

function place(upload) {
  return `${placesOf(upload.owner)}${upload.size}:${upload.modified}:${upload.name}`;
}
