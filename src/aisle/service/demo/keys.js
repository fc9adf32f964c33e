// Keys: / goes to the search field, arrows move between products, Escape goes back.

import { byId } from "./dom.js";

const titles = () => [...document.querySelectorAll("#hits button.title")].filter((title) => title.offsetParent !== null);
const isTyping = (target) => target.matches("input:not([type=checkbox], [type=radio]), textarea, select");

/** Listen to the keys. Enter needs no listener: a product's title is a button. */
export function bindKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const { key, target } = event;
    if (key === "/" && !isTyping(target)) goTo(byId("query"), event, { select: true });
    else if (key === "Escape") escape(event);
    else if (key === "ArrowDown" || key === "ArrowUp") move(event, key === "ArrowDown" ? 1 : -1);
  });
}

function goTo(element, event, { select = false } = {}) {
  event.preventDefault();
  element.focus();
  if (select) element.select();
}

/** Move from the search field to the first product, between products, and back; within a list if there are two. */
function move(event, by) {
  const { target } = event;
  const all = titles();
  if (target === byId("query")) {
    if (by > 0 && all.length) goTo(all[0], event);
    return;
  }
  const own = target.closest(".hit")?.querySelector("button.title");
  if (!own) return;
  const list = all.filter((title) => title.closest("ol") === own.closest("ol"));
  const next = list[list.indexOf(own) + by];
  if (next) goTo(next, event);
  else if (by < 0) goTo(byId("query"), event);
  else event.preventDefault();
}

/** Close the explanation around the focus; otherwise go to the search field, which Escape empties. */
function escape(event) {
  const { target } = event;
  if (target === byId("query")) return;
  const title = target.closest(".hit")?.querySelector("button.title");
  if (title?.getAttribute("aria-expanded") === "true") {
    title.click();
    goTo(title, event);
  } else goTo(byId("query"), event, { select: true });
}
