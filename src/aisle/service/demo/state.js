// The search that the page shows: the query, the settings and the filters, kept in the page's address.

export const MODES = ["dense", "lexical", "hybrid"];
export const VIEWS = ["tuned", "base", "both"];

/** Return the state without a query. `chosen` maps fields to values, with null for "no value"; `ranges` to [from, to]. */
export const emptyState = () => ({
  query: "", mode: null, view: "tuned", page: 1, likely: false, chosen: new Map(), ranges: new Map(), where: "",
});

/** Return the state of an address; what it cannot be is left out. */
export function stateOf(address) {
  const state = emptyState();
  for (const [key, value] of new URLSearchParams(address)) {
    const [, kind, field] = /^(is|none|min|max)\.(.+)$/s.exec(key) ?? [];
    if (key === "q") state.query = value;
    else if (key === "mode" && MODES.includes(value)) state.mode = value;
    else if (key === "view" && VIEWS.includes(value)) state.view = value;
    else if (key === "page") state.page = Math.max(1, Math.trunc(Number(value)) || 1);
    else if (key === "likely") state.likely = true;
    else if (key === "where") state.where = value;
    else if (kind === "is") choose(state, field, parsed(value), true);
    else if (kind === "none") choose(state, field, null, true);
    else if (kind && value !== "" && Number.isFinite(Number(value))) limit(state, field, kind, Number(value));
  }
  return state;
}

/** Return the address of a state. Values are written as JSON, so that "1", 1 and true stay apart. */
export function addressOf(state) {
  const parts = new URLSearchParams();
  if (state.query) parts.append("q", state.query);
  if (state.mode) parts.append("mode", state.mode);
  if (state.view !== "tuned") parts.append("view", state.view);
  if (state.likely) parts.append("likely", "1");
  for (const [field, values] of state.chosen) {
    for (const value of values) {
      if (value === null) parts.append(`none.${field}`, "1");
      else parts.append(`is.${field}`, JSON.stringify(value));
    }
  }
  for (const [field, [from, to]] of state.ranges) {
    if (from !== null) parts.append(`min.${field}`, from);
    if (to !== null) parts.append(`max.${field}`, to);
  }
  if (state.where) parts.append("where", state.where);
  if (state.page > 1) parts.append("page", state.page);
  return `?${parts}`;
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return ["string", "number", "boolean"].includes(typeof value) ? value : text;
  } catch {
    return text;
  }
}

/** Choose a value of a field, or take it back. */
export function choose(state, field, value, on) {
  const values = state.chosen.get(field) ?? [];
  const rest = values.filter((other) => other !== value);
  if (on) rest.push(value);
  if (rest.length) state.chosen.set(field, rest);
  else state.chosen.delete(field);
}

/** Set the lowest ("min") or highest ("max") number of a field; null removes it. */
export function limit(state, field, kind, number) {
  const [from, to] = state.ranges.get(field) ?? [null, null];
  const range = kind === "min" ? [number, to] : [from, number];
  if (range.every((end) => end === null)) state.ranges.delete(field);
  else state.ranges.set(field, range);
}

/** Return the number of filters. */
export const filterCount = (state) =>
  [...state.chosen.values()].reduce((sum, values) => sum + values.length, 0) + state.ranges.size + (state.where ? 1 : 0);

/** Return the state's filter in aisle's syntax, or null; `except` leaves a field's chosen values out. */
export function filterOf(state, catalogue, except = null) {
  const clauses = [];
  if (state.where) clauses.push(`(${state.where})`); // first, so that errors name its characters
  for (const [field, values] of state.chosen) {
    if (field !== except) clauses.push(oneOf(field, values, catalogue.lists.has(field)));
  }
  for (const [field, [from, to]] of state.ranges) {
    if (from !== null) clauses.push(`${column(field)} >= ${from}`);
    if (to !== null) clauses.push(`${column(field)} <= ${to}`);
  }
  if (clauses.length === 1 && state.where) return state.where;
  return clauses.length ? clauses.join(" and ") : null;
}

function oneOf(field, values, isList) {
  const given = values.filter((value) => value !== null).map(literal);
  const parts = values.includes(null) ? [`${column(field)} is None`] : [];
  if (isList) parts.push(...given.map((value) => `${value} in ${column(field)}`));
  else if (given.length) parts.push(`${column(field)} in [${given.join(", ")}]`);
  return parts.length > 1 ? `(${parts.join(" or ")})` : parts[0];
}

// JSON's texts and numbers are also Python's, which the filter's parser reads; its true and false are too.
const literal = (value) => JSON.stringify(value);
const column = (field) => (/^[a-z][a-z0-9_]*$/.test(field) && !KEYWORDS.has(field) ? field : `col(${literal(field)})`);
const KEYWORDS = new Set(
  ("and as assert async await break class continue def del elif else except finally for from global if import in is " +
    "lambda nonlocal not or pass raise return try while with yield none null true false").split(" "),
);
