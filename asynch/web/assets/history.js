/** The uploads of the past, a page at a time. */

import { read } from "./api.js";
import { showActs } from "./acts.js";
import { isFinal } from "./processing.js";
import { showName, showPicture } from "./preview.js";
import { watch } from "./watching.js";
import { size, STATUS, time } from "./words.js";

const PAGE_SIZE = 10;
// Links are signed for an hour unless the installation says less; a row's are asked for anew long before.
const FRESH_MS = 5 * 60_000;

export class History {
  #page = 1;
  #pages = 1;
  #entries = new Map();
  #stop = new AbortController();
  #list = document.getElementById("past");
  #note = document.getElementById("history-note");

  constructor() {
    document.getElementById("refresh").addEventListener("click", () => this.show());
    document.getElementById("newer").addEventListener("click", () => this.#turn(-1));
    document.getElementById("older").addEventListener("click", () => this.#turn(1));
  }

  /** Ask for the page that is open, and show it. */
  async show() {
    this.#stop.abort();
    const { signal } = (this.#stop = new AbortController());
    try {
      const { total, tasks } = await read(`upload/tasks?page=${this.#page}&size=${PAGE_SIZE}`, signal);
      this.#pages = Math.max(1, Math.ceil(total / PAGE_SIZE));
      if (this.#page > this.#pages) return this.#turn(this.#pages - this.#page);
      this.#lay(tasks);
      await this.#fill(tasks, signal);
    } catch (error) {
      if (!signal.aborted) this.#say(error.message);
    }
  }

  #turn(by) {
    const to = this.#page + by;
    if (to < 1 || to > this.#pages) return;
    this.#page = to;
    this.show();
  }

  #lay(tasks) {
    const before = this.#entries;
    this.#entries = new Map(tasks.map((task) => [task.task_id, before.get(task.task_id) || newEntry()]));
    for (const [id, entry] of before) if (!this.#entries.has(id)) entry.stop.abort();
    for (const task of tasks) showTask(this.#entries.get(task.task_id).node, task);
    const nodes = [...this.#entries.values()].map((entry) => entry.node);
    const isSame = nodes.length === this.#list.children.length && nodes.every((n, at) => n === this.#list.children[at]);
    if (!isSame) this.#list.replaceChildren(...nodes); // moving a node would take the focus from its link
    this.#say(tasks.length ? "" : "Nothing has been uploaded yet.");
    document.getElementById("pages").hidden = this.#pages === 1;
    document.getElementById("place").textContent = `Page ${this.#page} of ${this.#pages}`;
    document.getElementById("newer").ariaDisabled = String(this.#page === 1);
    document.getElementById("older").ariaDisabled = String(this.#page === this.#pages);
  }

  /** One row after the other: the list is there already, and a tenant's reads are counted. */
  async #fill(tasks, signal) {
    for (const task of tasks.filter((task) => isFinal(task.status))) {
      const entry = this.#entries.get(task.task_id);
      if (performance.now() < entry.freshUntil) continue;
      const told = await read(`upload/progress/${task.task_id}`, signal);
      showDetails(entry, task, told);
      entry.stop.abort();
      entry.stop = new AbortController();
      if (told.repository_id) watch(told.repository_id, entry.stop.signal, (file) => showDetails(entry, task, told, file));
    }
  }

  #say(text) {
    this.#note.textContent = text;
    this.#note.hidden = !text;
  }
}

function newEntry() {
  const node = document.getElementById("entry").content.cloneNode(true).firstElementChild;
  return { node, freshUntil: 0, file: null, stop: new AbortController() };
}

function showTask(node, task) {
  node.dataset.state = task.status;
  const name = node.querySelector(".name");
  if (!name.firstChild) showName(name, task.filename);
  showPicture(node.querySelector(".preview"), task.filename, null);
  if (node.dataset.told === task.status) return;
  node.dataset.told = task.status;
  node.querySelector(".state").replaceChildren(STATUS[task.status] || task.status, ", ", time(task.created_at));
}

function showDetails(entry, task, told, file = entry.file) {
  entry.file = file;
  entry.freshUntil = performance.now() + FRESH_MS;
  const { node } = entry;
  showName(node.querySelector(".name"), task.filename, file?.url || told.oss_path);
  showPicture(node.querySelector(".preview"), task.filename, file);
  showActs(node, file);
  const words = told.error ? `${STATUS.failed}: ${told.error}` : `${STATUS[told.status]}, ${size(file?.stored_size || told.file_size)}`;
  node.querySelector(".state").replaceChildren(words, ", ", time(task.created_at));
}
