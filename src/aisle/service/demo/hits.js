// Products found, the pages, and the lines about them.

import { byId, element, isolated, marked } from "./dom.js";
import { addressOf } from "./state.js";
import { count, figure, heading, milliseconds, ordinal, valueText } from "./words.js";

const FACTS = 5;
const SHOWN_MS = 0.05; // a search by words embeds nothing

/**
 * Return a product as a list item. Its title is a button that opens the explanation.
 *
 * `move` is the mark of its change of rank, from compare.js; `explain` fills the panel when it is opened first.
 */
export function hitItem(hit, catalogue, { prefix = "hit", level = "h3", move = null, explain }) {
  const panel = element("div", { class: "why", id: `${prefix}-why-${hit.rank}`, hidden: true });
  const title = catalogue.title === null ? "" : valueText(hit.fields[catalogue.title]);
  const button = element("button", {
    type: "button", class: "title", "aria-expanded": "false", "aria-controls": panel.id,
    click: () => toggle(button, panel, explain),
  }, title ? marked(title, hit.highlights?.[catalogue.title]) : isolated(hit.id));
  const price = catalogue.price === null ? "" : valueText(hit.fields[catalogue.price], catalogue.price);
  const facts = catalogue.facets.filter((field) => valueText(hit.fields[field])).slice(0, FACTS);
  const prose = catalogue.prose === null ? "" : valueText(hit.fields[catalogue.prose]);
  return element("li", { class: "hit", value: hit.rank, "data-id": hit.id },
    element("span", { class: "rank", "aria-hidden": "true" }, count(hit.rank)),
    element("div", { class: "product" },
      element(level, {}, button),
      facts.length > 0 && element("p", { class: "facts" },
        facts.map((field) => element("span", { title: heading(field) }, isolated(valueText(hit.fields[field], field))))),
      prose && element("p", { class: "prose" }, marked(prose, hit.highlights?.[catalogue.prose]))),
    element("div", { class: "figures" },
      price && element("span", { class: "price", title: heading(catalogue.price) }, price),
      move,
      element("span", { class: "score" }, element("span", { class: "unseen" }, "score "), figure(hit.score)),
      sidesOf(hit)),
    panel);
}

/** Return the ranks of a product by meaning and by words, where a search has both. */
function sidesOf(hit) {
  const { dense = 0, bm25 = 0 } = hit.ranks ?? {};
  if (hit.scores?.fused == null) return null;
  const part = (rank, words) => (rank ? `${ordinal(rank)} by ${words}` : `not by ${words}`);
  return element("span", { class: "sides" }, element("span", {}, part(dense, "meaning")), element("span", {}, part(bm25, "words")));
}

async function toggle(button, panel, explain) {
  const open = button.getAttribute("aria-expanded") !== "true";
  button.setAttribute("aria-expanded", String(open));
  panel.hidden = !open;
  document.dispatchEvent(new Event("layout"));
  if (!open || panel.childElementCount) return;
  panel.setAttribute("aria-busy", "true");
  panel.replaceChildren(...(await explain()));
  panel.removeAttribute("aria-busy");
  document.dispatchEvent(new Event("layout"));
}

/** Return "2.7 ms (1.9 embedding, 0.8 search)": the time that the service took. */
export function latencyText({ took_ms: took }) {
  const parts = [took.embed >= SHOWN_MS && `${milliseconds(took.embed)} embedding`, `${milliseconds(took.search)} search`].filter(Boolean);
  const total = (took.embed ?? 0) + took.search;
  return `${milliseconds(total)} ms${parts.length > 1 ? ` (${parts.join(", ")})` : ""}`;
}

/** Return the time that the service took, and the time that the browser waited. */
export const latencies = (found) => `${latencyText(found)} · ${milliseconds(found.roundTrip)} ms round trip`;

/** Show links to the pages around the state's page, of `last` pages. */
export function showPages(state, last, go) {
  const nav = byId("pages");
  nav.hidden = last <= 1;
  if (nav.hidden) {
    nav.replaceChildren();
    return;
  }
  const link = (page, words, attributes = {}) => {
    if (page < 1 || page > last) return element("span", { class: "off", "aria-hidden": "true" }, words);
    return element("a", {
      href: addressOf({ ...state, page }),
      click: (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
        event.preventDefault();
        go(page);
      },
      ...attributes,
    }, words);
  };
  const numbers = [...new Set([1, state.page - 1, state.page, state.page + 1, last])].filter((page) => page >= 1 && page <= last);
  const items = numbers.flatMap((page, at) => [
    at > 0 && page > numbers[at - 1] + 1 && element("span", { class: "gap", "aria-hidden": "true" }, "…"),
    link(page, count(page), { "aria-label": `Page ${count(page)}`, ...(page === state.page ? { "aria-current": "page" } : {}) }),
  ]);
  nav.replaceChildren(
    link(state.page - 1, "← Previous", { rel: "prev" }),
    element("span", { class: "numbers" }, items),
    link(state.page + 1, "Next →", { rel: "next" }),
  );
}
