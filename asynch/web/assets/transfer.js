/** One file on its way: from being chosen until it is stored, given up, or refused. */

import { Refusal, read } from "./api.js";
import { follow } from "./processing.js";
import { giveUp, upload } from "./tus.js";
import { forget, hold, remember } from "./unfinished.js";
import { watch } from "./watching.js";

/** @typedef {"waiting" | "sending" | "paused" | "missing" | "processing" | "completed" | "failed"} State */

const ELSEWHERE = "Another page goes on with this file.";

export class Transfer {
  /** @type {State} */
  state = "waiting";
  /** What went wrong, or what the sender has to know; empty else. */
  message = "";
  /** @type {any} the service's last word on the processing */
  told = null;
  /** @type {any} the stored file */
  stored = null;
  /** Whether it stands still until somebody signs in. */
  isShutOut = false;
  #stop = new AbortController();
  #changed;

  /**
   * @param {File | null} file null while only an earlier page had it
   * @param {import("./unfinished.js").Remembered} record
   * @param {(transfer: Transfer, isNews: boolean) => void} changed
   */
  constructor(file, record, changed) {
    this.file = file;
    this.record = record;
    this.#changed = changed;
  }

  /** @returns {boolean} */
  get isOver() {
    return this.state === "completed" || this.state === "failed";
  }

  /** Find out what became of an upload of an earlier page. False: there is nothing to go on with. */
  async recall() {
    try {
      const told = await read(`upload/progress/${this.record.id}`);
      if (told.status === "failed") {
        forget(this.record);
        return false;
      }
      if (told.status === "pending") this.state = "missing";
      else this.follow();
    } catch (error) {
      if (error instanceof Refusal && error.status === 404) {
        forget(this.record);
        return false;
      }
      this.state = "missing";
    }
    return true;
  }

  /**
   * Have a file that was chosen again; it goes on when its turn comes.
   * @param {File} file
   */
  take(file) {
    this.file = file;
    this.#become("waiting");
  }

  /** Bring the bytes to the service; ends when none is left to send, and never throws. */
  async send() {
    const { signal } = this.#restart();
    this.#become("sending");
    if (this.record.id) this.#hold(signal);
    try {
      await upload(this.file, this.record.id, signal, {
        begun: (id) => {
          this.#note({ id, sent: 0 });
          this.#hold(signal);
        },
        sent: (bytes) => this.#sent(bytes),
        broken: (why) => this.#say(`${why} Trying again.`),
      });
    } catch (error) {
      if (!signal.aborted) this.#halt(error);
      return;
    }
    this.follow();
  }

  /** Watch the processing, and then the file that came of it. */
  async follow() {
    const { signal } = this.#restart();
    this.#become("processing");
    try {
      this.told = await follow(this.record.id, signal, (told) => {
        this.told = told;
        this.#changed(this, false);
      });
      forget(this.record);
      this.#become(this.told.status, this.told.error);
      if (this.state === "completed") watch(this.told.repository_id, signal, (file) => this.#have(file), true);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && error.status === 401) this.#shutOut("processing");
      else this.#become("failed", error.message);
    }
  }

  /** Stop sending; what has arrived stays at the service for a while. */
  pause() {
    this.#stop.abort();
    this.#become("paused");
  }

  /** Queue up again. */
  resume() {
    if (this.state === "processing") this.follow();
    else this.#become(this.file ? "waiting" : "missing");
  }

  /** Give the upload up. False: it was too late, or the service does not know of it yet. */
  async cancel() {
    this.pause(); // so that no turn comes while the service is told
    try {
      if (this.record.id) await giveUp(this.record.id);
    } catch (error) {
      if (error instanceof Refusal && error.status === 409) this.follow();
      else this.#become(this.file ? "paused" : "missing", error.message);
      return false;
    }
    forget(this.record);
    return true;
  }

  /** Nobody looks at it any more. */
  leave() {
    this.#stop.abort();
  }

  /** Write down how far it is, before the page goes away. */
  save() {
    if (this.record.id && !this.isOver) remember(this.record);
  }

  #hold(signal) {
    hold(this.record.id, signal, () => {
      this.#stop.abort();
      this.#become("paused", ELSEWHERE);
    });
  }

  #restart() {
    this.#stop.abort();
    this.#stop = new AbortController();
    return this.#stop;
  }

  #sent(bytes) {
    this.message = "";
    this.record = { ...this.record, sent: bytes };
    this.#changed(this, false);
  }

  #note(more) {
    this.record = { ...this.record, ...more };
    remember(this.record);
  }

  #say(message) {
    this.message = message;
    this.#changed(this, true);
  }

  #have(file) {
    this.stored = file;
    this.#changed(this, false);
  }

  #halt(error) {
    this.#stop.abort();
    this.save();
    if (error instanceof Refusal && error.status === 401) return this.#shutOut("paused");
    if (error instanceof Refusal && error.code === "taken_over") return this.#become("paused", ELSEWHERE);
    if (error instanceof DOMException) error = new Error("The file on this device was changed or is gone.");
    forget(this.record);
    return this.#become("failed", error.message);
  }

  #shutOut(state) {
    this.#become(state, "Sign in again to go on.", true);
  }

  /** @param {State} state @param {string} [message] @param {boolean} [isShutOut] */
  #become(state, message = "", isShutOut = false) {
    this.isShutOut = isShutOut;
    this.state = state;
    this.message = message;
    this.#changed(this, true);
  }
}
