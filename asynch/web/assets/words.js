/** Sizes, times and states, as this page says them. */

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const moment = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });
const UNITS = ["bytes", "kB", "MB", "GB", "TB"];

/** What a status of the service means to the one who sent the file. */
export const STATUS = {
  pending: "Not all of it has been sent",
  received: "Received, waiting to be processed",
  processing: "Being processed",
  compressing: "Being made smaller",
  uploading_oss: "Being stored",
  completed: "Stored",
  failed: "Failed",
};

/** What the state of an action means; another one is its own word. */
const ACTION = {
  pending: "Waiting",
  processing: "Running",
  awaiting: "Waiting for its result",
  completed: "Done",
  failed: "Failed",
};

// Of what a receiver or a model says; the whole of it is in the API's answer.
const MOST_CHARACTERS = 300;

/**
 * @param {string} status of an action
 * @returns {string}
 */
export function wordOf(status) {
  return Object.hasOwn(ACTION, status) ? ACTION[status] : plain(status);
}

/**
 * @param {number} bytes
 * @returns {string} such as 1.5 MB
 */
export function size(bytes) {
  const step = bytes < 1000 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log10(bytes) / 3));
  return `${number.format(bytes / 1000 ** step)}\u00a0${UNITS[step]}`;
}

/**
 * @param {number} part
 * @param {number} whole
 * @returns {string} such as 12 %, never 100 before it is
 */
export function percent(part, whole) {
  return `${Math.floor((100 * part) / (whole || 1))}\u00a0%`;
}

/**
 * @param {string} time RFC 3339
 * @returns {HTMLTimeElement}
 */
export function time(time) {
  const made = document.createElement("time");
  made.dateTime = time;
  made.textContent = moment.format(new Date(time));
  return made;
}

/**
 * A name without the characters that cannot be seen or turn the text around them.
 * @param {string} name
 * @param {string} [otherwise] where nothing is left of it
 * @returns {string}
 */
export function shown(name, otherwise = "file") {
  return name.replace(/\p{C}/gu, "") || otherwise;
}

/**
 * A text of any length as one line that can be read, cut where it is too long.
 * @param {string} text
 * @returns {string}
 */
export function plain(text) {
  const letters = [...shown(text.replace(/\s+/g, " "), "")];
  return letters.length > MOST_CHARACTERS ? `${letters.slice(0, MOST_CHARACTERS).join("")}…` : letters.join("");
}
