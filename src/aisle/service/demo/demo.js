// The search page: it shows the state of its address, and changes it by form, filters, links and keys.

import { ApiError, info, useKey } from "./api.js";
import { about, catalogueOf } from "./catalogue.js";
import { bothLists, drawLines } from "./compare.js";
import { byId, element } from "./dom.js";
import { explanationOf } from "./explanation.js";
import { clearFilters, showChosen, showFacets, totalText } from "./facets.js";
import { hitItem, latencies, showPages } from "./hits.js";
import { bindKeys } from "./keys.js";
import { COMPARED, PAGE, explained, findBoth, findPage } from "./searches.js";
import { addressOf, filterCount, stateOf } from "./state.js";
import { count, counted } from "./words.js";

const RETRY_MS = 1500;
const wide = window.matchMedia("(min-width: 64rem)");
let catalogue = null;
let state = stateOf(location.search);
let running = null;
let retry = null;
// The index that answered, so that all pages of a search come from it.
let pinned = { search: null, fingerprint: null };

const copyOf = (old) => ({
  ...old,
  chosen: new Map([...old.chosen].map(([field, values]) => [field, [...values]])),
  ranges: new Map(old.ranges),
});
const withoutPage = (of) => addressOf({ ...of, page: 1 });

/** Change the state, put it into the address, and show it. A change other than of the page starts at page 1. */
function change(edit, { page = 1, focus = false } = {}) {
  const next = copyOf(state);
  edit(next);
  next.page = page;
  if (addressOf(next) !== addressOf(state)) history.pushState(null, "", next.query || filterCount(next) ? addressOf(next) : "./");
  state = next;
  show({ focus });
}

async function start() {
  try {
    catalogue = catalogueOf(await info());
  } catch (error) {
    showError(error, start);
    return;
  }
  if (state.view !== "tuned" && !catalogue.pairs.includes("base")) state.view = "tuned";
  byId("about").textContent = about(catalogue);
  byId("view").hidden = !catalogue.pairs.includes("base");
  for (const input of document.querySelectorAll("#mode input")) input.parentElement.hidden = !catalogue.modes.includes(input.value);
  byId("mode").hidden = catalogue.modes.length < 2;
  show();
}

/** Show the state: ask the service, and draw its answer. */
async function show({ focus = false } = {}) {
  running?.abort();
  clearTimeout(retry);
  const { signal } = (running = new AbortController());
  state.page = Math.min(state.page, lastPage());
  showControls();
  if (!state.query.trim()) {
    showStart();
    return;
  }
  document.body.dataset.state = "busy";
  byId("found").setAttribute("aria-busy", "true");
  try {
    if (state.view === "both") showBoth(await findBoth(state, catalogue, { signal }));
    else showPage(await findPage(state, catalogue, { fingerprint: pinned.search === withoutPage(state) ? pinned.fingerprint : null, signal }));
    if (signal.aborted) return;
    if (focus) byId("results").focus();
  } catch (error) {
    if (signal.aborted) return;
    if (isGone(error)) {
      pinned = { search: null, fingerprint: null };
      change(() => {});
      byId("announcement").textContent = "The index has changed, so the search started again at page 1.";
      return;
    }
    showError(error, () => show({ focus }));
  } finally {
    if (!signal.aborted) byId("found").removeAttribute("aria-busy");
  }
}

const lastPage = () => Math.max(1, Math.floor(catalogue.window / PAGE));
const isGone = (error) => error instanceof ApiError && error.status === 410 && pinned.fingerprint !== null;

function showControls() {
  byId("query").value = state.query;
  byId("where").value = state.where;
  const mode = state.mode ?? catalogue.mode;
  for (const input of document.querySelectorAll("#mode input")) input.checked = input.value === mode;
  for (const input of document.querySelectorAll("#view input")) input.checked = input.value === state.view;
  byId("likely").hidden = !catalogue.calibrated.has(mode);
  byId("likely").querySelector("input").checked = state.likely;
  byId("headline").textContent = `Search ${counted(catalogue.size, "product")}`;
  document.title = state.query ? `${state.query} · aisle` : "aisle · search";
  byId("where-error").hidden = true;
  byId("where").removeAttribute("aria-invalid");
}

function draw(name, { title = "", latency = "", announcement = title, notice = [], hits = [] } = {}) {
  document.body.dataset.state = name;
  byId("results").textContent = title;
  byId("latency").textContent = latency;
  byId("announcement").textContent = announcement;
  byId("notice").replaceChildren(...notice);
  byId("hits").replaceChildren(...hits);
  const editable = byId("facets").childElementCount || (catalogue !== null && state.where);
  byId("filters").hidden = name === "start" || (name === "error" && !editable);
  if (name !== "results") showPages(state, 0);
}

function showStart() {
  draw("start");
  byId("found").removeAttribute("aria-busy");
  byId("chosen").replaceChildren();
}

function showPage({ found, facets }) {
  pinned = { search: withoutPage(state), fingerprint: found.index.fingerprint };
  showFacets(state, catalogue, facets, change);
  showChosen(state, change);
  const last = Math.ceil(found.total.value / PAGE);
  if (!found.hits.length) {
    if (found.total.value && state.page > 1) {
      change(() => {}, { page: Math.max(1, last) });
      return;
    }
    showNothing(latencies(found));
    return;
  }
  const [first, end] = [found.hits[0].rank, found.hits.at(-1).rank];
  draw("results", {
    title: `${count(first)}–${count(end)} of ${totalText(found.total)}`,
    latency: latencies(found),
    hits: [element("ol", { class: "hits" }, found.hits.map((hit) =>
      hitItem(hit, catalogue, { explain: explainer(hit, catalogue.pairs.length > 1 ? state.view : null, found) })))],
  });
  showPages(state, Math.min(last, lastPage()), (page) => change(() => {}, { page, focus: true }));
}

function showBoth({ base, tuned, facets }) {
  showFacets(state, catalogue, facets, change);
  showChosen(state, change);
  const longest = Math.max(base.hits.length, tuned.hits.length);
  if (!longest) {
    showNothing(latencies(tuned));
    return;
  }
  const last = Math.ceil(longest / PAGE);
  if (state.page > last) {
    change(() => {}, { page: last });
    return;
  }
  const { lists, summary } = bothLists({ base, tuned }, state.page, catalogue, (hit, pair, answer) => explainer(hit, pair, answer)());
  draw("results", {
    title: summary,
    latency: `Ranks within the first ${COMPARED} products`,
    hits: [lists],
  });
  drawLines(lists);
  showPages(state, last, (page) => change(() => {}, { page, focus: true }));
}

/** Return a function that asks for an explanation and returns its elements. */
function explainer(hit, pair, answer) {
  const asked = copyOf(state);
  return async () => {
    try {
      const found = await explained(asked, catalogue, { id: hit.id, rank: hit.rank, pair, fingerprint: answer.index.fingerprint });
      if (found) return explanationOf(found, catalogue);
      return [element("p", { class: "note" }, "The index has changed since this search. Search again.")];
    } catch (error) {
      return [element("p", { class: "problem", role: "alert" }, error.message)];
    }
  };
}

function showNothing(latency) {
  const ways = [];
  const way = (words, edit) => ways.push(element("button", { type: "button", class: "chip", click: () => change(edit) }, words));
  if (filterCount(state)) way("Remove the filters", clearFilters);
  if (state.likely) way("Show unlikely answers too", (next) => { next.likely = false; });
  if ((state.mode ?? catalogue.mode) === "lexical" && catalogue.modes.includes("dense")) way("Search by meaning", (next) => { next.mode = "dense"; });
  draw("empty", {
    title: "No product found",
    latency,
    notice: [element("div", { class: "notice" },
      element("p", {}, ways.length ? "Nothing matches all of this. You could:" : "Nothing matches. Try other words."),
      ways.length > 0 && element("p", { class: "ways" }, ways))],
  });
}

function showError(error, again) {
  if (!(error instanceof ApiError)) throw error;
  byId("found").removeAttribute("aria-busy");
  if (error.status === 422 || error.status === 400) {
    if (state.where && (error.field === "filter" || /^(filter|where)\b/.test(error.message))) {
      byId("where-error").textContent = error.message;
      byId("where-error").hidden = false;
      byId("where").setAttribute("aria-invalid", "true");
      byId("filters").open = true;
    }
    showChosen(state, change);
  }
  const starting = error.status === 503;
  draw("error", {
    title: starting ? "The service is starting" : titleOf(error),
    notice: [element("div", { class: "notice", role: "alert" },
      element("p", {}, starting ? "The model and the index are being loaded. This page tries again by itself." : error.message),
      error.status === 401 ? keyForm(again) : !starting && element("p", { class: "ways" }, element("button", { type: "button", class: "chip", click: again }, "Try again")))],
  });
  if (starting) retry = setTimeout(again, RETRY_MS);
}

function titleOf({ status, retryAfter }) {
  if (status === 0) return "No connection";
  if (status === 401 || status === 403) return "An API key is needed";
  if (status === 429) return retryAfter ? `The service is busy: try again in ${counted(retryAfter, "second")}` : "The service is busy";
  if (status === 504) return "The search took too long";
  return status >= 500 ? "The service has a problem" : "This search cannot be answered";
}

function keyForm(again) {
  const input = element("input", { type: "password", "aria-label": "API key", autocomplete: "off" });
  return element("form", {
    class: "ways",
    submit: (event) => {
      event.preventDefault();
      useKey(input.value.trim() || null);
      again();
    },
  }, input, element("button", { type: "submit", class: "chip" }, "Use this key"));
}

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  if (catalogue === null) return;
  change((next) => { next.query = byId("query").value.trim(); });
});
byId("search").addEventListener("change", ({ target }) => {
  if (catalogue === null || target.id === "query") return;
  change((next) => {
    next.query = byId("query").value.trim();
    if (target.name === "likely") next.likely = target.checked;
    else next[target.name] = target.value;
  });
});
byId("condition").addEventListener("submit", (event) => {
  event.preventDefault();
  change((next) => { next.where = byId("where").value.trim(); });
});
window.addEventListener("popstate", () => {
  state = stateOf(location.search);
  if (catalogue !== null) show();
});
const unfold = () => { byId("filters").open = wide.matches; };
const redraw = () => { for (const sides of document.querySelectorAll(".sides-box")) drawLines(sides); };
wide.addEventListener("change", unfold);
window.addEventListener("resize", redraw);
document.addEventListener("layout", redraw);
bindKeys();
unfold();
start();
