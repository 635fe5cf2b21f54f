// The page: asks, shows, and keeps the address in step.

import { ask, ServerError, useKey } from "./api.js";
import { cardsAfter, cardsBefore, highlight } from "./cards.js";
import { byId } from "./dom.js";
import { showFacts } from "./facts.js";
import { cardOf, drawMoves, linkHover } from "./moves.js";
import { matchedSpans, rank, search, shown } from "./ranking.js";
import { showSnippets } from "./snippets.js";
import { showTime } from "./timebar.js";

let mode = "index"; // or "texts"
let current = new AbortController(); // of the query that is asked
let passages = []; // that are shown

function setMode(wanted) {
  mode = wanted;
  for (const each of ["index", "texts"]) {
    byId(`mode-${each}`).setAttribute("aria-pressed", each === mode);
  }
  byId("texts-row").hidden = mode !== "texts";
  document.querySelector(".candidates").hidden = mode === "texts";
  byId("filter-row").hidden = mode === "texts";
}

function setOrder(wanted) {
  byId("columns").dataset.shown = wanted;
  for (const each of ["after", "before"]) {
    byId(`show-${each}`).setAttribute("aria-pressed", each === wanted);
  }
}

function say(text, kind = "") {
  byId("status").textContent = text;
  byId("status").className = `status ${kind}`;
}

/** Returns what is typed as a filter, undefined if nothing is; throws `SyntaxError`. */
function typedFilter() {
  const text = byId("filter").value.trim();
  return text && mode === "index" ? JSON.parse(text) : undefined;
}

async function submit() {
  const query = byId("query").value.trim();
  if (!query) {
    say("Type a query first.");
    byId("query").focus();
    return;
  }
  const candidates = Number(byId("candidates").value);
  const texts = byId("texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (mode === "texts" && !texts.length) {
    say("Paste some texts to rank, one a line.");
    byId("texts").focus();
    return;
  }
  let filter;
  try {
    filter = typedFilter();
  } catch {
    say(`The filter is no JSON: write it as ${byId("filter").placeholder}.`, "error");
    byId("filter").focus();
    return;
  }
  if (mode === "index") {
    const state = new URLSearchParams({ q: query, candidates });
    if (filter !== undefined) state.set("filter", JSON.stringify(filter));
    history.replaceState(null, "", `#${state}`);
  }
  current.abort();
  current = new AbortController();
  const { signal } = current;
  say("Ranking\u2026", "busy");
  byId("results").ariaBusy = "true";
  const began = performance.now();
  try {
    const found =
      mode === "index"
        ? await search({ query, candidates, filter }, signal)
        : await rank(query, texts, signal);
    show(found, (performance.now() - began) / 1000);
    if (mode === "index") showSnippets("search", { query, candidates, filter, top_k: 10 });
    else showSnippets("v2/rerank", { query, documents: texts, top_n: 10 });
    await showSpans(query, signal);
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  } finally {
    if (!signal.aborted) byId("results").ariaBusy = "false";
  }
}

function show(found, seconds) {
  passages = shown(found.passages);
  byId("welcome").hidden = true;
  byId("key-row").hidden = true;
  byId("results").hidden = !passages.length;
  if (!passages.length) {
    const why = byId("filter").value.trim() ? "no passage fulfils the filter" : "the index is empty";
    say(`Nothing was found: ${why}.`);
    return;
  }
  const moved = found.passages.filter((each) => each.rank !== each.rankBefore).length;
  say(`${found.passages.length} ranked, ${moved} moved.`);
  byId("before-title").textContent = found.before;
  byId("show-before").textContent = found.before;
  byId("before").replaceChildren(...cardsBefore(passages));
  byId("after").replaceChildren(...cardsAfter(passages));
  showTime(byId("time"), found.timings, seconds);
  drawMoves(passages);
}

/** Marks what matched, best passage first; a page without marks is whole, so it may fail. */
async function showSpans(query, signal) {
  for (const passage of passages) {
    const spans = await matchedSpans(query, passage, signal).catch((error) => {
      if (error.name === "AbortError") throw error;
      return [];
    });
    if (spans.length) highlight(cardOf("after", passage.id), passage.text, spans);
  }
  drawMoves(passages);
}

function fail(error) {
  if (!(error instanceof ServerError)) throw error;
  byId("results").hidden = true;
  if (error.status === 401) {
    byId("key-row").hidden = false;
    byId("key").focus();
  }
  say(error.message, "error");
}

function readAddress() {
  const state = new URLSearchParams(location.hash.slice(1));
  const query = state.get("q");
  if (!query) return;
  byId("query").value = query;
  const candidates = state.get("candidates");
  if ([...byId("candidates").options].some((each) => each.value === candidates)) {
    byId("candidates").value = candidates;
  }
  byId("filter").value = state.get("filter") ?? "";
  byId("filter-row").open = state.has("filter");
  setMode("index");
  submit();
}

function step(by) {
  const cards = [...byId("after").querySelectorAll(".card")];
  const place = cards.indexOf(document.activeElement) + by;
  cards[Math.max(0, Math.min(place, cards.length - 1))]?.focus();
}

function onKey(event) {
  const typing = event.target.closest("input, textarea, select");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") byId("query").focus();
  else if (typing) return;
  else if (event.key === "/") byId("query").focus();
  else if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else return;
  event.preventDefault();
}

async function start() {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(byId("key").value.trim());
    submit();
  });
  byId("mode-index").addEventListener("click", () => setMode("index"));
  byId("mode-texts").addEventListener("click", () => setMode("texts"));
  byId("show-after").addEventListener("click", () => setOrder("after"));
  byId("show-before").addEventListener("click", () => setOrder("before"));
  addEventListener("keydown", onKey);
  addEventListener("hashchange", readAddress);
  new ResizeObserver(() => passages.length && drawMoves(passages)).observe(byId("columns"));
  linkHover(byId("columns"));
  setOrder("after");
  try {
    const info = await ask("info");
    showFacts(byId("facts"), info);
    if (!info.index) {
      setMode("texts");
      byId("mode-index").disabled = true;
    }
  } catch (error) {
    fail(error);
  }
  readAddress();
}

start();
