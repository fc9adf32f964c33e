// The base model's products beside the tuned model's, with the change of each product's rank.

import { drawing, element } from "./dom.js";
import { hitItem, latencyText } from "./hits.js";
import { COMPARED, PAGE } from "./searches.js";
import { count, counted } from "./words.js";

/** Return the mark of a product: its rank in `ours` compared with its rank in the other list (0 if it is not there). */
function moveOf(rank, before, { forward }) {
  const say = (kind, shown, words) => element("span", { class: `move ${kind}` },
    element("span", { "aria-hidden": "true" }, shown), element("span", { class: "unseen" }, words));
  if (!forward) {
    return before ? say(kindOf(before, rank), `→ ${count(before)}`, `tuned: rank ${count(before)}`)
      : say("gone", "→ out", `tuned: not in the first ${count(COMPARED)}`);
  }
  if (!before) return say("new", "new", `new: not in the base model's first ${count(COMPARED)}`);
  const by = Math.abs(before - rank);
  if (!by) return say("same", "=", "same rank");
  return before > rank ? say("up", `▲ ${count(by)}`, `up ${count(by)}, from rank ${count(before)}`)
    : say("down", `▼ ${count(by)}`, `down ${count(by)}, from rank ${count(before)}`);
}

const kindOf = (rank, before) => (rank < before ? "up" : rank > before ? "down" : "same");

/** Return the sentence that sums up a page, such as "6 of these 10 products moved, 3 are new." */
export function summaryOf(hits, before) {
  const fresh = hits.filter((hit) => !before.has(hit.id)).length;
  const moved = hits.filter((hit) => before.has(hit.id) && before.get(hit.id) !== hit.rank).length;
  if (!fresh && !moved) return "Both models rank these products alike.";
  const parts = [moved > 0 && `${count(moved)} moved`, fresh > 0 && `${count(fresh)} ${fresh === 1 ? "is" : "are"} new`];
  return `Of the tuned model's ${counted(hits.length, "product")} on this page, ${parts.filter(Boolean).join(" and ")}.`;
}

/** Return both lists for a page. `explain(hit, pair, answer)` returns the elements of an explanation. */
export function bothLists({ base, tuned }, page, catalogue, explain) {
  const ranks = { base: ranksOf(base.hits), tuned: ranksOf(tuned.hits) };
  const shown = (answer) => answer.hits.slice((page - 1) * PAGE, page * PAGE);
  const list = (pair, answer, other, head) => element("section", { class: `side ${pair}`, "aria-labelledby": `${pair}-head` },
    element("h3", { id: `${pair}-head`, class: "side-head" }, element("span", { class: "key", "aria-hidden": "true" }), head,
      element("span", { class: "note" }, latencyText(answer))),
    shown(answer).length
      ? element("ol", { class: "hits" }, shown(answer).map((hit) => hitItem(hit, catalogue, {
        prefix: pair,
        level: "h4",
        move: moveOf(hit.rank, other.get(hit.id) ?? 0, { forward: pair === "tuned" }),
        explain: () => explain(hit, pair, answer),
      })))
      : element("p", { class: "note" }, "No products on this page."));
  const sides = element("div", { class: "sides-box" },
    list("base", base, ranks.tuned, "Base model"),
    drawing("svg", { class: "lines", "aria-hidden": "true" }),
    list("tuned", tuned, ranks.base, "Tuned model"));
  for (const type of ["pointerover", "focusin"]) sides.addEventListener(type, (event) => pick(sides, event.target.closest(".hit")));
  for (const type of ["pointerleave", "focusout"]) sides.addEventListener(type, () => pick(sides, null));
  return { lists: sides, summary: summaryOf(shown(tuned), ranks.base) };
}

const ranksOf = (hits) => new Map(hits.map((hit) => [hit.id, hit.rank]));

/** Highlight a product in both lists. */
function pick(sides, hit) {
  for (const part of sides.querySelectorAll("[data-id]")) {
    part.classList.toggle("picked", hit !== null && part.dataset.id === hit.dataset.id);
  }
}

/** Draw a line between the two places of each product that both lists show. */
export function drawLines(sides) {
  const lines = sides.querySelector(".lines");
  const frame = lines.getBoundingClientRect();
  lines.replaceChildren();
  if (!frame.width) return; // the lists stand below each other
  lines.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  const middle = (item) => {
    const box = item.querySelector(".title").getBoundingClientRect();
    return box.top + Math.min(box.height, 24) / 2 - frame.top;
  };
  const places = new Map([...sides.querySelectorAll(".base .hit")].map((item) => [item.dataset.id, item]));
  for (const item of sides.querySelectorAll(".tuned .hit")) {
    const from = places.get(item.dataset.id);
    if (!from) continue;
    const [start, end] = [middle(from), middle(item)];
    lines.append(drawing("path", {
      class: kindOf(item.value, from.value),
      "data-id": item.dataset.id,
      d: `M0 ${start}C${frame.width / 2} ${start} ${frame.width / 2} ${end} ${frame.width} ${end}`,
    }));
  }
}
