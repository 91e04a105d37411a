/** How a file is shown: its name as a link once it is stored, and a picture of it where there is one. */

import { shown } from "./words.js";

const PICTURES = ["image/jpeg", "image/png", "image/gif", "image/webp", "image/avif", "image/bmp"];

/**
 * Show a name in `place`, as a link to `url` if there is one.
 * @param {HTMLElement} place
 * @param {string} name
 * @param {string} [url]
 */
export function showName(place, name, url) {
  const text = shown(name);
  if (!isLink(url)) {
    place.textContent = text;
    return;
  }
  const link = place.querySelector("a") || document.createElement("a");
  link.href = url;
  link.target = "_blank"; // some stores show the file, and an upload on this page would end with it
  link.rel = "noopener noreferrer";
  link.textContent = text;
  if (!link.parentNode) place.replaceChildren(link);
}

/**
 * Show a file's cover, or a small version of itself, or its kind.
 * @param {HTMLElement} place
 * @param {string} name
 * @param {any} file what the service tells of it; null before it is stored
 */
export function showPicture(place, name, file) {
  const [kind, url] = pictureOf(file);
  if (!isLink(url)) {
    if (!place.firstChild) place.append(kindOf(name));
    return;
  }
  if (place.dataset.of === url.split("?")[0]) return; // signed anew, and the same picture
  place.dataset.of = url.split("?")[0];
  const image = new Image();
  image.alt = `${kind} of ${shown(name)}`;
  image.referrerPolicy = "no-referrer";
  image.decoding = "async";
  image.onerror = () => place.replaceChildren(kindOf(name));
  image.src = url;
  place.replaceChildren(image);
}

function pictureOf(file) {
  if (file?.cover_url) return ["Cover", file.cover_url];
  if (file && PICTURES.includes(file.content_type)) return ["Thumbnail", file.url];
  return ["", ""];
}

function kindOf(name) {
  const made = document.createElement("span");
  made.ariaHidden = "true";
  made.textContent = /\.([A-Za-z0-9]{1,4})$/.exec(name)?.[1].toUpperCase() || "FILE";
  return made;
}

function isLink(url) {
  return /^https?:/i.test(url || "");
}
