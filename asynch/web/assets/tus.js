/** Uploads in pieces: the part of tus 1.0.0 (https://tus.io/protocols/resumable-upload) that this page needs. */

import { address, Broken, call, isPassing, proof, read, Refusal, refusal } from "./api.js";
import { backOff, rest } from "./waiting.js";

const PIECE_BYTES = 8 * 1024 * 1024;
// The service can tell a file's type by so many bytes. More would still be on its way when it refuses the type, and
// the reason would be lost with the connection.
const FIRST_PIECE_BYTES = 64 * 1024;
const STALLED_MS = 30_000;
const VERSION = { "Tus-Resumable": "1.0.0" };

/**
 * Bring a file to the service, however often the connection breaks.
 *
 * Throws Refusal for good, NotReadableError for a file that is no longer what was chosen, the signal's reason.
 * @param {File} file
 * @param {string} id of an upload that was begun before; empty for none
 * @param {AbortSignal} signal
 * @param {{begun: (id: string) => void, sent: (bytes: number) => void, broken: (why: string) => void}} told
 * @returns {Promise<string>} the upload's id
 */
export async function upload(file, id, signal, told) {
  let mayBeOver = Boolean(id);
  for (let failures = 0; ; ) {
    try {
      let offset = 0;
      if (id) offset = await stand(id, signal);
      else told.begun((id = await create(file, signal)));
      mayBeOver = false;
      while (offset < file.size) {
        signal.throwIfAborted();
        told.sent(offset);
        const piece = file.slice(offset, offset + (offset < FIRST_PIECE_BYTES ? FIRST_PIECE_BYTES : PIECE_BYTES));
        offset = await append(id, offset, piece, signal, told.sent);
        failures = 0;
      }
      told.sent(offset);
      return id;
    } catch (error) {
      signal.throwIfAborted();
      if (mayBeOver && isGone(error)) {
        id = "";
        mayBeOver = false;
        continue;
      }
      await file.slice(0, 1).arrayBuffer(); // a file that has changed on the disk fails as if the connection had
      if (!isWorthTrying(error)) throw isGone(error) ? await reason(id, error, signal) : error;
      told.broken(error.message);
      await rest(error.retryAfterMs || backOff(++failures), signal);
    }
  }
}

/**
 * Give an upload up; its bytes go. One that is over already is no error.
 * @param {string} id
 */
export async function giveUp(id) {
  try {
    await call(`tus/${id}`, { method: "DELETE", headers: VERSION });
  } catch (error) {
    if (!isGone(error)) throw error;
  }
}

async function create(file, signal) {
  const headers = { ...VERSION, "Upload-Length": String(file.size), "Upload-Metadata": `filename ${coded(file.name)}` };
  const answer = await call("tus", { method: "POST", headers, signal });
  // only the id: behind a proxy the public address may be another than the one this page is seen at
  return answer.headers.get("Location").split("/").pop();
}

async function stand(id, signal) {
  const answer = await call(`tus/${id}`, { method: "HEAD", headers: VERSION, signal });
  return Number(answer.headers.get("Upload-Offset"));
}

/** By XMLHttpRequest, as fetch does not tell how much has been sent. */
function append(id, offset, piece, signal, sent) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    let watch = setTimeout(stop, STALLED_MS);
    request.open("PATCH", address(`tus/${id}`));
    const headers = { ...proof(), ...VERSION, "Upload-Offset": String(offset) };
    headers["Content-Type"] = "application/offset+octet-stream";
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => {
      clearTimeout(watch);
      watch = setTimeout(stop, STALLED_MS);
      if (!signal.aborted) sent(offset + event.loaded);
    };
    request.onload = () => {
      const { status, responseText: text } = request;
      if (status === 204) resolve(Number(request.getResponseHeader("Upload-Offset")));
      else reject(refusal(status, text, request.getResponseHeader("Retry-After")));
    };
    request.onerror = request.onabort = () => reject(new Broken("The connection broke."));
    request.onloadend = () => {
      clearTimeout(watch);
      signal.removeEventListener("abort", stop);
    };
    signal.addEventListener("abort", stop);
    request.send(piece);
  });
}

function coded(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

function isGone(error) {
  return error instanceof Refusal && (error.status === 404 || error.status === 410);
}

/** Our own broken request may still be on its way when we come back: the offset has moved, and asking again is all. */
function isWorthTrying(error) {
  return isPassing(error) || (error instanceof Refusal && error.code === "wrong_offset");
}

/** Why an upload is over: an answer to HEAD has no body to say so. */
async function reason(id, error, signal) {
  const told = await read(`upload/progress/${id}`, signal).catch(() => ({}));
  return new Refusal(error.status, { error: told.error || error.message }, 0);
}
