// The requests behind the page: a page of products, the counts of facets, two models, an explanation.

import { search } from "./api.js";
import { filterOf } from "./state.js";

export const PAGE = 10;
/** Products that are compared side by side. */
export const COMPARED = 100;

function requestOf(state, catalogue, changes = {}) {
  const filter = filterOf(state, catalogue, changes.except ?? null);
  const mode = state.mode ?? catalogue.mode;
  const request = {
    query: state.query,
    mode,
    ...(filter === null ? {} : { filter }),
    ...(state.likely && catalogue.calibrated.has(mode) ? { min_score: "calibrated" } : {}),
    ...(catalogue.pairs.length > 1 ? { pair: state.view === "base" ? "base" : "tuned" } : {}),
    ...changes,
  };
  delete request.except;
  return request;
}

const facetsOf = (fields) => (fields.length ? { facets: fields } : {});

/**
 * Return { found, facets } of a state's page. A field with chosen values gets its counts without them, so that its
 * other values stay to be chosen; all other counts are of the products found.
 */
export async function findPage(state, catalogue, { fingerprint = null, signal }) {
  const pinned = fingerprint === null ? {} : { fingerprint };
  const [found, facets] = await Promise.all([
    search(requestOf(state, catalogue, {
      top_k: PAGE, offset: (state.page - 1) * PAGE, highlight: true, ...facetsOf(openFields(state, catalogue)), ...pinned,
    }), signal),
    chosenFacets(state, catalogue, pinned, signal),
  ]);
  return { found, facets: { ...found.facets, ...facets } };
}

/** Return { base, tuned, facets }: the first products of both models. */
export async function findBoth(state, catalogue, { signal }) {
  const depth = { top_k: Math.min(COMPARED, catalogue.window), offset: 0, highlight: true };
  const [base, tuned, facets] = await Promise.all([
    search(requestOf(state, catalogue, { ...depth, pair: "base" }), signal),
    search(requestOf(state, catalogue, { ...depth, ...facetsOf(openFields(state, catalogue)) }), signal),
    chosenFacets(state, catalogue, {}, signal),
  ]);
  return { base, tuned, facets: { ...tuned.facets, ...facets } };
}

/** Return a hit of a state's page with its explanation; null if another product has its rank by now. */
export async function explained(state, catalogue, { id, rank, pair, fingerprint }) {
  const changes = { top_k: 1, offset: rank - 1, explain: true, fingerprint };
  if (pair !== null) changes.pair = pair;
  const { hits, index, model } = await search(requestOf(state, catalogue, changes));
  return hits[0]?.id === id ? { ...hits[0], index, model } : null;
}

const openFields = (state, catalogue) => catalogue.facets.filter((field) => !state.chosen.has(field));

async function chosenFacets(state, catalogue, pinned, signal) {
  const fields = catalogue.facets.filter((field) => state.chosen.has(field));
  const answers = await Promise.all(fields.map((field) =>
    search(requestOf(state, catalogue, { top_k: 0, except: field, ...facetsOf([field]), ...pinned }), signal)));
  return Object.fromEntries(fields.map((field, at) => [field, answers[at].facets[field]]));
}
