// The catalogue as the page shows it: which field is the title, which the price, which have facets.

import { count, counted, modelName } from "./words.js";

const TITLES = ["title", "name", "product_title", "product_name", "headline"];
const PROSE = /desc|text|bullet|summary/i;
const PRICE = /(^|_)price($|_)/i;
const FACETS = 100; // most facets of a request
const RANGES = 4; // most fields of numbers with a range
const COUNTED = ["texts", "true or false", "lists"];

/** Return the catalogue that GET /info describes. */
export function catalogueOf(info) {
  const fields = info.index.fields;
  const namesOf = (kept) => fields.filter(kept).map((field) => field.name);
  const texts = namesOf((field) => field.kind === "texts");
  const title = TITLES.find((name) => texts.includes(name)) ?? texts[0] ?? null;
  const facets = namesOf((field) => field.facet && COUNTED.includes(field.kind) && field.name !== title).slice(0, FACETS);
  const numbers = namesOf((field) => field.kind === "numbers");
  const price = numbers.find((name) => PRICE.test(name)) ?? null;
  return {
    size: info.index.products,
    version: info.index.version,
    model: info.model ? modelName(info.model.name) : null,
    modes: info.modes,
    mode: info.mode,
    window: info.window,
    calibrated: new Set(info.calibrated),
    pairs: info.pairs,
    title,
    price,
    facets,
    ranges: [...numbers].sort((one, other) => (other === price) - (one === price)).slice(0, RANGES),
    lists: new Set(namesOf((field) => field.kind === "lists")),
    prose: texts.find((name) => name !== title && !facets.includes(name) && PROSE.test(name)) ?? null,
  };
}

/** Return the line that describes the catalogue. */
export const about = (catalogue) =>
  [counted(catalogue.size, "product"), `version ${count(catalogue.version)}`, catalogue.model].filter(Boolean).join(" · ");
