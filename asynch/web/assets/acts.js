/** What rules do with a file, and its tags, as lists below its name. All of it was written by others: it is text. */

import { showName, showPicture } from "./preview.js";
import { plain, shown, size, time, wordOf } from "./words.js";

// More of them would push the other files off the screen.
const MOST_OPEN = 4;

/**
 * Show the actions and tags of a file in its row.
 * @param {HTMLElement} row
 * @param {any} file what the service tells of it; null before it is stored
 */
export function showActs(row, file) {
  if (!file) return;
  showTags(row.querySelector(".tags"), file.tags);
  const place = row.querySelector(".acts");
  const list = place.querySelector("ul");
  if (place.hidden) place.open = file.actions.length <= MOST_OPEN; // from then on it is as the reader wants it
  place.hidden = !file.actions.length;
  const nodes = new Map([...list.children].map((node) => [node.dataset.id, node]));
  for (const action of file.actions) showAct(nodes.get(action.task_id) || append(list, action.task_id), action, file);
  say(place.querySelector("summary"), summary(file.actions));
}

function append(list, id) {
  const node = document.getElementById("act").content.cloneNode(true).firstElementChild;
  node.dataset.id = id;
  list.append(node);
  return node;
}

function showAct(node, action, file) {
  node.dataset.status = action.status;
  say(node.querySelector(".title"), shown(action.name, "action"));
  say(node.querySelector(".word"), wordOf(action.status));
  showDue(node.querySelector(".due"), action.due_at);
  say(node.querySelector(".why"), plain(action.error));
  const made = file.derived.find((derived) => derived.identity === action.output?.identity);
  const product = node.querySelector(".product");
  product.hidden = !made;
  if (made) {
    showPicture(product.querySelector(".small"), made.name, made);
    showName(product.querySelector(".name"), made.name, made.url);
    say(product.querySelector(".hint"), size(made.stored_size));
  }
  say(node.querySelector(".output"), made || action.output == null ? "" : outputOf(action.output));
}

/** When a delayed action begins, or a failed one is tried again. */
function showDue(place, due) {
  place.hidden = !due;
  if (!due || place.firstElementChild?.dateTime === due) return;
  place.replaceChildren(" until ", time(due));
}

/** Another file may have had the same content before: then it is that one, and not below this. */
function outputOf(output) {
  const names = Object.keys(output);
  return names.length === 1 && names[0] === "identity" ? `File ${plain(String(output.identity))}` : plain(JSON.stringify(output));
}

/** Such as: 3 actions: 2 done, 1 failed. */
function summary(actions) {
  const counts = new Map();
  for (const { status } of actions) counts.set(wordOf(status), (counts.get(wordOf(status)) || 0) + 1);
  const each = [...counts].map(([word, count]) => `${count} ${word.toLowerCase()}`);
  return `${actions.length} ${actions.length === 1 ? "action" : "actions"}: ${each.join(", ")}`;
}

function showTags(list, tags) {
  const texts = tags.map((tag) => shown(tag, "tag"));
  list.hidden = !texts.length;
  if (JSON.stringify(texts) === list.dataset.told) return;
  list.dataset.told = JSON.stringify(texts);
  list.replaceChildren(
    ...texts.map((text) => {
      const made = document.createElement("li");
      made.textContent = text;
      return made;
    }),
  );
}

/** A text that did not change is left alone, for whoever has selected it. */
function say(place, text) {
  place.hidden = !text;
  if (place.textContent !== text) place.textContent = text;
}
