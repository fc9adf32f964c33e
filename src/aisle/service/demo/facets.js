// The filters: values to tick with their counts, ranges of numbers, and the list of what is chosen.

import { byId, element, isolated } from "./dom.js";
import { choose, filterCount, limit } from "./state.js";
import { count, counted, heading, valueText } from "./words.js";

/** Show the filters. `change` is called with a function that changes the state. */
export function showFacets(state, catalogue, facets, change) {
  const box = byId("facets");
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const groups = [
    ...catalogue.ranges.map((field) => rangeOf(field, state, change)),
    ...catalogue.facets.filter((field) => facets[field]).map((field) => valuesOf(field, facets[field], state, change)),
  ];
  box.replaceChildren(...groups.filter(Boolean));
  // The box that was ticked has been replaced.
  if (focused !== null) [...box.querySelectorAll("input")].find((input) => input.dataset.key === focused)?.focus();
  const filters = filterCount(state);
  byId("filter-count").textContent = filters ? `(${count(filters)})` : "";
}

function valuesOf(field, facet, state, change) {
  const chosen = state.chosen.get(field) ?? [];
  const rows = facet.values.map(({ value, count: products }) => [value, products]);
  if (facet.missing || chosen.includes(null)) rows.push([null, facet.missing]);
  for (const value of chosen) {
    if (!rows.some(([shown]) => shown === value)) rows.push([value, 0]);
  }
  if (!rows.length) return null;
  return element("fieldset", { class: "facet" },
    element("legend", {}, isolated(heading(field))),
    rows.map(([value, products]) => element("label", { class: products ? null : "none" },
      element("input", {
        type: "checkbox",
        "data-key": JSON.stringify([field, value]),
        checked: chosen.includes(value),
        change: (event) => change((next) => choose(next, field, value, event.target.checked)),
      }),
      element("span", { class: "value" }, value === null ? element("em", {}, "not given") : isolated(valueText(value, field) || "(blank)")),
      element("span", { class: "count" }, count(products)))),
    facet.other > 0 && element("p", { class: "note" }, `${count(facet.other)} with other values`));
}

function rangeOf(field, state, change) {
  const range = state.ranges.get(field) ?? [null, null];
  const end = (kind, at, words) => element("input", {
    type: "number", step: "any", inputmode: "decimal", value: range[at], placeholder: words,
    "aria-label": `${heading(field)} ${words}`, "data-key": JSON.stringify([field, kind]),
    change: ({ target }) => {
      if (target.validity.badInput) return;
      change((next) => limit(next, field, kind, target.value === "" ? null : target.valueAsNumber));
    },
  });
  return element("fieldset", { class: "facet range" },
    element("legend", {}, isolated(heading(field))),
    end("min", 0, "from"), element("span", { "aria-hidden": "true" }, "–"), end("max", 1, "to"));
}

/** Show what is chosen, each with a button that takes it back. */
export function showChosen(state, change) {
  const chips = [];
  const chip = (words, undo) => chips.push(element("button", { type: "button", class: "chip", "aria-label": `Remove the filter ${words}`, click: () => change(undo) },
    isolated(words), element("span", { "aria-hidden": "true" }, "×")));
  for (const [field, values] of state.chosen) {
    for (const value of values) {
      chip(`${heading(field)}: ${value === null ? "not given" : valueText(value, field)}`, (next) => choose(next, field, value, false));
    }
  }
  for (const [field, [from, to]] of state.ranges) {
    const words = [from !== null && `from ${valueText(from, field)}`, to !== null && `to ${valueText(to, field)}`].filter(Boolean).join(" ");
    chip(`${heading(field)} ${words}`, (next) => next.ranges.delete(field));
  }
  if (state.where) chip(state.where, (next) => { next.where = ""; });
  if (chips.length > 1) {
    chips.push(element("button", { type: "button", class: "plain", click: () => change(clearFilters) }, "Clear all"));
  }
  byId("chosen").replaceChildren(...chips);
}

/** Remove every filter of a state. */
export function clearFilters(state) {
  state.chosen.clear();
  state.ranges.clear();
  state.where = "";
}

/** Return "41 products", or "at least 1,000 products" where the window cut something off. */
export const totalText = (total) => `${total.relation === "gte" ? "at least " : ""}${counted(total.value, "product")}`;
