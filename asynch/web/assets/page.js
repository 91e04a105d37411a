/** The page: lets files in, gives each its turn, and asks for a key where one is needed. */

import { access, keepToken, owner, read, Refusal, token } from "./api.js";
import { History } from "./history.js";
import { Row, stateOf } from "./row.js";
import { Transfer } from "./transfer.js";
import { isSame, remembered } from "./unfinished.js";
import { news } from "./watching.js";
import { shown, size } from "./words.js";

const AT_ONCE = 2;
const MOST_SAID = 10;

const place = (id) => document.getElementById(id);
const input = place("files");
const history = new History();
/** @type {Map<Transfer, Row>} in the order of the list */
const rows = new Map();
/** Until then it is not known what an earlier page left. */
let recalled = Promise.resolve();
let whose = "";

function changed(transfer, isNews) {
  rows.get(transfer)?.update();
  if (!isNews) return;
  if (transfer.isOver) history.show();
  if (rows.has(transfer)) announce(`${shown(transfer.record.name)}: ${stateOf(transfer)}`);
  giveTurns();
}

/** Say it to those who do not see it: after what was said just before, not in its place. */
function announce(text) {
  const line = document.createElement("p");
  line.textContent = text;
  place("announcer").append(line);
  while (place("announcer").children.length > MOST_SAID) place("announcer").firstChild.remove();
}

/** The first ones that wait may send, as many at once as there may be. */
function giveTurns() {
  const inState = (state) => [...rows.keys()].filter((transfer) => transfer.state === state);
  while (inState("sending").length < AT_ONCE && inState("waiting").length) inState("waiting")[0].send();
}

function list(transfer) {
  const row = new Row(transfer, act);
  rows.set(transfer, row);
  place("transfers").append(row.node);
  place("current").hidden = false;
}

function unlist(transfer) {
  const { node } = rows.get(transfer);
  if (node.contains(document.activeElement)) input.focus();
  node.remove();
  transfer.leave();
  rows.delete(transfer);
  place("current").hidden = !rows.size;
  giveTurns();
}

async function act(what, transfer) {
  if (what === "Pause") transfer.pause();
  else if (what === "Resume") transfer.resume();
  else if (what === "Choose file") input.click();
  else if (what === "Dismiss") unlist(transfer);
  else if (await transfer.cancel()) {
    announce(`${shown(transfer.record.name)}: cancelled`);
    unlist(transfer);
    history.show();
  }
}

async function add(files) {
  await recalled; // one of them may be what an earlier page did not finish
  const known = [];
  for (const file of files) {
    const before = [...rows.keys()].find((one) => !one.isOver && isSame(file, one.record));
    if (before && ["missing", "paused"].includes(before.state)) before.take(file);
    else if (before) known.push(shown(file.name));
    else list(new Transfer(file, recordOf(file), changed));
  }
  notice(known.length ? `Already in the list: ${known.join(", ")}` : "");
  giveTurns();
}

function recordOf(file) {
  return { owner: owner(), id: "", name: file.name, size: file.size, modified: file.lastModified, sent: 0 };
}

function notice(text) {
  place("notice").textContent = text;
  place("notice").hidden = !text;
}

function watchFiles() {
  input.addEventListener("change", () => {
    add([...input.files]);
    input.value = ""; // so that choosing the same file again is a change
  });
  // Anywhere on the page: a file that misses the zone would replace the page by its content.
  let depth = 0;
  const highlight = (by) => place("drop").classList.toggle("over", (depth = Math.max(0, by ? depth + by : 0)) > 0);
  window.addEventListener("dragenter", () => highlight(1));
  window.addEventListener("dragleave", () => highlight(-1));
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    highlight(0);
    if (!place("work").hidden) drop(event.dataTransfer);
  });
}

async function drop(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const isFolder = (item) => Boolean(item.webkitGetAsEntry?.()?.isDirectory);
  const hasFolder = items.some(isFolder);
  const files = items.filter((item) => !isFolder(item)).map((item) => item.getAsFile());
  await add(files);
  if (hasFolder) notice("A folder cannot be uploaded as such: choose the files in it.");
}

async function recall() {
  for (const record of remembered()) {
    const transfer = new Transfer(null, record, changed);
    if (await transfer.recall()) list(transfer);
  }
}

function begin() {
  place("access").hidden = true;
  place("identity").hidden = !token();
  if (place("work").hidden) {
    place("work").hidden = false;
    recalled = recall();
  }
  whose = owner();
  for (const transfer of rows.keys()) if (transfer.isShutOut) transfer.resume();
  access.dispatchEvent(new Event("granted"));
  history.show();
}

function askForKey() {
  place("access").hidden = false;
  place("identity").hidden = true;
}

async function signIn(event) {
  event.preventDefault();
  const text = place("key").value.trim();
  if (!/^[!-~]+$/.test(text)) return refuse("A key has letters, digits and signs only.");
  keepToken(text);
  try {
    await read("upload/tasks?size=1");
  } catch (error) {
    keepToken("");
    return refuse(error instanceof Refusal && error.status === 401 ? "This key is not accepted." : error.message);
  }
  if (rows.size && owner() !== whose) return location.reload(); // another person's uploads are none of theirs
  place("key").value = "";
  refuse("");
  begin();
  if (event.submitter || document.activeElement === document.body) input.focus();
}

function refuse(text) {
  place("key-error").textContent = text;
  place("key").ariaInvalid = String(Boolean(text));
}

watchFiles();
place("key-form").addEventListener("submit", signIn);
place("forget").addEventListener("click", () => {
  keepToken("");
  location.reload();
});
access.addEventListener("needed", askForKey);
news.addEventListener("told", (event) => announce(event.detail));
window.addEventListener("pagehide", () => [...rows.keys()].forEach((transfer) => transfer.save()));
for (const node of document.querySelectorAll("[data-bytes]")) node.textContent = size(Number(node.dataset.bytes));
if (document.body.dataset.asks === "yes" && !token()) askForKey();
else begin();
