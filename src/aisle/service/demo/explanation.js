// Why a product has its rank: both scores and ranks, the words, the filter, and what it takes to repeat it.

import { drawing, element, isolated } from "./dom.js";
import { count, figure, heading, modelName, ordinal, valueText } from "./words.js";

const EMBEDDED_TEXT = "__text__";

/** Return the elements of an explanation. `hit` is the hit of an answer with `explain`, with its index and model. */
export function explanationOf(hit, catalogue) {
  const why = hit.explain ?? {};
  return [
    element("div", {}, scoresOf(hit, why), wordsOf(why), filterOf(why)),
    element("div", {}, productOf(hit, catalogue)),
    sourceOf(hit),
  ];
}

const section = (title, ...content) => element("section", {}, element("h4", {}, title), content);
const row = (name, ...content) => element("div", {}, element("dt", {}, isolated(name)), element("dd", {}, content));

function bar(share) {
  const width = Math.round(80 * Math.max(0, Math.min(1, share)));
  return drawing("svg", { class: "bar", width: "80", height: "8", viewBox: "0 0 80 8", "aria-hidden": "true" },
    drawing("rect", { class: "track", width: "80", height: "8", rx: "2" }),
    drawing("rect", { class: "fill", width: String(width), height: "8", rx: "2" }));
}

function scoresOf({ rank, scores = {}, ranks = {} }, { fused, settings, named_by_id: named }) {
  const part = (side) => fused && element("td", {}, bar(fused[side] / (fused.dense + fused.bm25)), " ", figure(fused[side]));
  const rows = [["Meaning", "dense", "cosine of the embeddings"], ["Words", "bm25", "BM25"]]
    .filter(([, side]) => scores[side] != null)
    .map(([name, side, how]) => element("tr", {},
      element("th", { scope: "row" }, name, element("small", {}, how)),
      element("td", {}, figure(scores[side])),
      element("td", {}, ranks[side] ? ordinal(ranks[side]) : "not found"),
      part(side)));
  if (scores.fused != null) {
    rows.push(element("tr", {},
      element("th", { scope: "row" }, "Both", element("small", {}, fusionText(settings))),
      element("td", {}, figure(scores.fused)), element("td", {}, ordinal(rank)), fused && element("td")));
  }
  const headings = ["Score", "Rank", ...(fused ? ["Part"] : [])].map((words) => element("th", { scope: "col" }, words));
  return section("Scores",
    element("div", { class: "scroll" }, element("table", {},
      element("thead", {}, element("tr", {}, element("td"), headings)), element("tbody", {}, rows))),
    named && element("p", {}, "The query is this product's id."));
}

function fusionText(settings) {
  if (settings?.fusion !== "convex" || settings.weight == null) return "by reciprocal ranks";
  const meaning = Math.round(100 * settings.weight);
  return `${meaning}% meaning, ${100 - meaning}% words`;
}

function wordsOf({ words }) {
  if (!words?.length) return null;
  return section("Words of the query", element("dl", {}, words.map(({ word, bm25, fields }) => {
    const places = Object.entries(fields).map(([field, written]) => element("li", {},
      field === EMBEDDED_TEXT ? "text: " : [isolated(heading(field)), ": "],
      written.map((form) => [element("mark", {}, isolated(form)), " "])));
    return row(word, places.length ? element("ul", {}, places) : "not in the product",
      bm25 > 0 && element("span", { class: "note" }, `BM25 ${figure(bm25)}`));
  })));
}

function filterOf({ filter }) {
  if (!filter?.length) return null;
  return section("Filter", element("ul", {}, filter.map(({ text, result, values }) => element("li", {},
    element("span", { class: result ? "passes" : "fails" }, element("span", { "aria-hidden": "true" }, result ? "✓ " : "✗ "),
      element("span", { class: "unseen" }, result ? "holds: " : "does not hold: ")),
    element("code", {}, text),
    Object.entries(values).map(([name, value]) => [" · ", isolated(heading(name)), " is ", isolated(valueText(value, name) || "not given")])))));
}

function productOf(hit, catalogue) {
  const shown = Object.entries(hit.fields).filter(([name, value]) => name !== catalogue.title && valueText(value) && value !== hit.id);
  return section("Product", element("dl", {}, row("Id", isolated(hit.id)),
    shown.map(([name, value]) => row(heading(name), isolated(valueText(value, name))))));
}

function sourceOf({ index, model }) {
  const short = (fingerprint) => (fingerprint ?? "").slice(0, 12);
  return element("p", { class: "note" }, `Index version ${count(index.version)} (${short(index.fingerprint)})`,
    model && [", model ", isolated(modelName(model.name)), ` (${short(model.fingerprint)})`], ".");
}
