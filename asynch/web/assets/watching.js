/** Stored files as they are now: each asked for by one loop, however many rows show it, until nothing will change. */

import { access, isPassing, read, Refusal } from "./api.js";
import { backOff, heard, rest } from "./waiting.js";
import { plain, shown, wordOf } from "./words.js";

const SOON_MS = 500;
// A change is seen after a third of the time again that it took, up to this: an action may be due in a week.
const LATEST_MS = 30_000;
const SLOWER = 1.3;
// A cover is a task of its own, begun when the film is stored; an installation may make none.
const COVER_MS = 120_000;

/** Dispatches `told` with a text as its `detail`, for those who do not see the rows change. */
export const news = new EventTarget();

/** By identity. `former` is what was seen last; empty where all that is there already is news, null where none is. */
const watches = new Map();
/** Ends with the read that goes on: there is one at a time, however many files have something to wait for. */
let turn = Promise.resolve();

/**
 * Have `changed` called with a file now and whenever it was looked at, until `signal` is aborted.
 * @param {string} identity
 * @param {AbortSignal} signal
 * @param {(file: any) => void} changed
 * @param {boolean} [isNew] whether actions that have ended before the first look are news too
 */
export function watch(identity, signal, changed, isNew = false) {
  if (signal.aborted) return;
  let one = watches.get(identity);
  if (!one) watches.set(identity, (one = { readers: new Set(), stop: new AbortController(), runs: false, file: null, isNew }));
  one.readers.add(changed);
  if (one.file) changed(one.file);
  if (!one.runs) run(identity, one);
  signal.addEventListener("abort", () => {
    one.readers.delete(changed);
    if (one.readers.size || watches.get(identity) !== one) return;
    watches.delete(identity);
    one.stop.abort();
  });
}

/** @param {any} action @returns {boolean} whether nothing will happen to it any more */
export function isOver(action) {
  return Boolean(action.completed_at) || action.status === "completed" || action.status === "failed";
}

async function run(identity, one) {
  one.runs = true;
  try {
    await look(identity, one, one.stop.signal);
  } catch (error) {
    // given up, or refused for good: the rows keep what was seen last
    if (!one.stop.signal.aborted && !(error instanceof Refusal)) throw error;
  } finally {
    one.runs = false;
  }
}

async function look(identity, one, signal) {
  const began = performance.now();
  let pause = SOON_MS;
  for (let last = ""; ; ) {
    while (document.hidden) await heard(document, "visibilitychange", signal);
    const file = await insistently(identity, signal);
    announce(one, file);
    one.file = file;
    for (const changed of [...one.readers]) changed(file);
    if (file.actions.every(isOver) && (hasItsCover(file) || performance.now() - began > COVER_MS)) return;
    const now = JSON.stringify([file.actions, file.derived.length, file.tags, !file.cover_url]);
    pause = now === last ? Math.min(LATEST_MS, pause * SLOWER) : SOON_MS;
    last = now;
    await rest(pause, signal);
  }
}

function hasItsCover(file) {
  return Boolean(file.cover_url) || !file.content_type.startsWith("video/");
}

async function insistently(identity, signal) {
  for (let failures = 0; ; ) {
    try {
      return await inTurn(identity, signal);
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof Refusal && error.status === 401) await heard(access, "granted", signal);
      else if (isPassing(error)) await rest(error.retryAfterMs || backOff(++failures), signal);
      else throw error;
    }
  }
}

function inTurn(identity, signal) {
  const mine = turn.then(() => read(identity, signal));
  turn = mine.catch(() => {});
  return mine;
}

/** Say what has ended since the last look, and what the tags are now. */
function announce(one, file) {
  const former = one.file || (one.isNew && { actions: [], tags: file.tags });
  if (!former) return;
  const wasOver = new Set(former.actions.filter(isOver).map((action) => action.task_id));
  const told = file.actions
    .filter((action) => isOver(action) && !wasOver.has(action.task_id))
    .map((action) => [shown(action.name, "action"), wordOf(action.status), plain(action.error)].filter(Boolean).join(": "));
  if (String(file.tags) !== String(former.tags)) told.push(`Tags: ${file.tags.map(plain).join(", ")}`);
  for (const text of told) news.dispatchEvent(new CustomEvent("told", { detail: `${shown(file.name)}: ${text}` }));
}
