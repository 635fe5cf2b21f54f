// The two columns: a card for each passage.

import { element, figure } from "./dom.js";

/** Returns the items of the column before: short cards, with what fell between left out. */
export function cardsBefore(passages) {
  return column(passages, "rankBefore", (passage) => card(passage, passage.rankBefore, false));
}

/** Returns the items of DiPair's column. */
export function cardsAfter(passages) {
  return column(passages, "rank", (passage) => card(passage, passage.rank, true));
}

function column(passages, rank, make) {
  const items = [];
  let last = 0;
  for (const passage of [...passages].sort((one, other) => one[rank] - other[rank])) {
    if (passage[rank] > last + 1) items.push(gap(passage[rank] - last - 1));
    items.push(make(passage));
    last = passage[rank];
  }
  return items;
}

function gap(count) {
  return element("li", { class: "gap" }, `${figure(count)} more`);
}

function card(passage, rank, whole) {
  const text = element("p", { class: "text" }, passage.text);
  const head = element(
    "div",
    { class: "head" },
    element("span", { class: "rank" }, `${rank}`),
    element("span", { class: "id" }, passage.title || passage.id),
  );
  const made = element("li", { class: `card ${direction(passage)}`, "data-id": passage.id }, head);
  if (whole) {
    head.append(badge(passage));
    made.tabIndex = 0;
    made.append(measures(passage));
  } else if (passage.cosine !== undefined) {
    head.append(element("span", { class: "figure" }, figure(passage.cosine, 3)));
  }
  made.append(text);
  return made;
}

/** Returns "up", "down" or "same": how a passage moved. */
export function direction({ rank, rankBefore }) {
  return rank < rankBefore ? "up" : rank > rankBefore ? "down" : "same";
}

function badge(passage) {
  const moved = passage.rankBefore - passage.rank;
  const [sign, said] =
    moved > 0 ? ["\u25b2", "up"] : moved < 0 ? ["\u25bc", "down"] : ["=", "not moved"];
  const label = moved ? `${said} ${Math.abs(moved)}, from ${passage.rankBefore}` : said;
  const shown = moved ? `${sign} ${figure(Math.abs(moved))}` : sign;
  return element("span", { class: "badge", title: label, "aria-label": label, role: "img" }, shown);
}

function measures(passage) {
  const meter = element("meter", { min: 0, max: 1, value: passage.score, "aria-label": "score" });
  const pairs = [
    ["score", passage.score < 0.0005 ? "< 0.001" : figure(passage.score, 3)],
    ["logit", figure(passage.logit, 2)],
  ];
  if (passage.cosine !== undefined) pairs.push(["cosine", figure(passage.cosine, 3)]);
  pairs.push(["before", `${passage.rankBefore}`]);
  if (passage.title) pairs.push(["id", passage.id]);
  const list = element("dl", { class: "measures" });
  for (const [name, value] of pairs) {
    list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  }
  return element("div", { class: "scores" }, meter, list);
}

/** Marks spans of a card's text, the heavier the stronger; `spans` are in code points. */
export function highlight(card, text, spans) {
  const points = Array.from(text);
  const heaviest = Math.max(...spans.map((span) => span.score));
  const parts = [];
  let end = 0;
  for (const span of [...spans].sort((one, other) => one.start - other.start)) {
    const mark = element("mark", {}, points.slice(span.start, span.end).join(""));
    mark.style.setProperty("--weight", (span.score / heaviest).toFixed(2));
    parts.push(points.slice(end, span.start).join(""), mark);
    end = span.end;
  }
  parts.push(points.slice(end).join(""));
  card.querySelector(".text").replaceChildren(...parts);
}
