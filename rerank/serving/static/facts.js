// What is served, in the head of the page.

import { element, figure } from "./dom.js";

/** Fills the list with the facts of `/info`. */
export function showFacts(list, info) {
  const facts = [["model", info.model_id]];
  if (info.index) {
    facts.unshift(["passages", figure(info.index.passages)]);
    facts.push(["search", info.index.ann], ["tokens", `${info.index.codec}, ${info.index.store}`]);
    facts.push(["digest", info.index.digest.slice(0, 8)]);
  }
  facts.push(["reads", `${info.query_tokens} + ${info.passage_tokens} tokens`]);
  list.replaceChildren(
    ...facts.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value)),
    ),
  );
}
