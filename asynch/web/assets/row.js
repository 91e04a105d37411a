/** A transfer as a row of the page: its words, bars and buttons. */

import { showActs } from "./acts.js";
import { showName, showPicture } from "./preview.js";
import { percent, shown, size, STATUS } from "./words.js";

/** What the first button does in each state, and the second. */
const BUTTONS = {
  waiting: ["Pause", "Cancel"],
  sending: ["Pause", "Cancel"],
  paused: ["Resume", "Cancel"],
  missing: ["Choose file", "Cancel"],
  processing: ["", ""],
  completed: ["", "Dismiss"],
  failed: ["", "Dismiss"],
};

export class Row {
  /**
   * @param {import("./transfer.js").Transfer} transfer
   * @param {(what: string, transfer: import("./transfer.js").Transfer) => void} act called with a button's word
   */
  constructor(transfer, act) {
    this.transfer = transfer;
    this.node = document.getElementById("transfer").content.cloneNode(true).firstElementChild;
    this.buttons = [0, 1].map(() => document.createElement("button"));
    for (const button of this.buttons) {
      button.type = "button";
      button.addEventListener("click", () => act(button.textContent, transfer));
    }
    this.node.querySelector(".actions").append(...this.buttons);
    const name = shown(transfer.record.name);
    this.node.querySelector(".sent").ariaLabel = `Sent of ${name}`;
    this.node.querySelector(".processed").ariaLabel = `Processed of ${name}`;
    this.update();
  }

  /** Show how it stands now. */
  update() {
    const { transfer, node } = this;
    const { name, sent, size: whole } = transfer.record;
    const isSent = transfer.told || transfer.state === "processing";
    node.dataset.state = transfer.state;
    node.querySelector(".state").textContent = stateOf(transfer);
    node.querySelector(".sent").value = isSent ? 1 : sent / (whole || 1);
    node.querySelector(".processed").value = transfer.told?.progress || 0;
    node.querySelector(".bars").hidden = transfer.isOver;
    showName(node.querySelector(".name"), name, transfer.stored?.url || transfer.told?.oss_path);
    showPicture(node.querySelector(".preview"), name, transfer.stored);
    showActs(node, transfer.stored);
    BUTTONS[transfer.state].forEach((word, n) => {
      const button = this.buttons[n];
      if (button.textContent === word) return;
      button.textContent = word;
      button.hidden = !word;
      button.ariaLabel = `${word} ${shown(name)}`;
    });
  }
}

/**
 * Where a transfer stands, in words.
 * @param {import("./transfer.js").Transfer} transfer
 * @returns {string}
 */
export function stateOf(transfer) {
  const { state, message, told, record } = transfer;
  const amount = `${size(record.sent)} of ${size(record.size)}`;
  const words = {
    waiting: () => "Waiting for its turn",
    sending: () => `Uploading: ${amount} (${percent(record.sent, record.size)})`,
    paused: () => `Paused at ${amount}`,
    missing: () => `Interrupted at ${amount}: choose the file again to go on`,
    processing: () => `${STATUS[told?.status] || "Received"}${told?.progress ? ` (${percent(told.progress, 100)})` : ""}`,
    completed: () => `Stored, ${size(transfer.stored?.stored_size || record.size)}`,
    failed: () => "Failed",
  }[state]();
  return message ? `${words}. ${message}` : words;
}
