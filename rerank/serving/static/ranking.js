// What is shown of a ranking: the same passages in the order before and in DiPair's.

import { ask } from "./api.js";

const SHOWN = 10;

const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));

/**
 * Searches the index for {query, candidates, filter}. Returns {passages, timings, total, before}: passages have id, title, text,
 * logit, score, rank, and the rank and the cosine before.
 */
export async function search(asked, signal) {
  const answer = await ask("search", { ...asked, top_k: null, raw_scores: true }, signal);
  const passages = answer.results.map((found) => ({
    ...found,
    logit: found.score,
    score: sigmoid(found.score),
    rankBefore: found.retrieval_rank,
    cosine: found.retrieval_score,
  }));
  return { passages, timings: answer.timings, before: "Vector search" };
}

/** Ranks texts for a query, and returns what `search` does. */
export async function rank(query, texts, signal) {
  const body = { query, documents: texts, raw_scores: true };
  const answer = await ask("v2/rerank", body, signal);
  const passages = answer.results.map((found, place) => ({
    id: `text ${found.index + 1}`,
    title: "",
    text: texts[found.index],
    logit: found.relevance_score,
    score: sigmoid(found.relevance_score),
    rank: place + 1,
    rankBefore: found.index + 1,
    given: true,
  }));
  return { passages, timings: {}, before: "As you gave them" };
}

/** Returns the passages that are among the first of either order. */
export function shown(passages) {
  return passages.filter((each) => Math.min(each.rank, each.rankBefore) <= SHOWN);
}

/** Returns the spans of a passage that match the query: {start, end, score}, in code points. */
export async function matchedSpans(query, passage, signal) {
  const source = passage.given ? { documents: [passage.text] } : { ids: [passage.id] };
  const body = { query, ...source, relevant_spans: { mode: "enabled", threshold: 0 } };
  const answer = await ask("v2/rerank", body, signal);
  return answer.results[0].relevant_spans ?? [];
}
