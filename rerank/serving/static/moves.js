// The lines between the two columns.

import { byId, svgElement } from "./dom.js";
import { direction } from "./cards.js";

/** Draws a line for each passage, from its place before to its place in DiPair's order. */
export function drawMoves(passages) {
  const svg = byId("moves");
  const box = svg.getBoundingClientRect();
  const lines = passages.map((passage) => {
    const from = middle("before", passage.id, box);
    const to = middle("after", passage.id, box);
    const half = box.width / 2;
    return svgElement("path", {
      class: direction(passage),
      "data-id": passage.id,
      d: `M0 ${from} C${half} ${from} ${half} ${to} ${box.width} ${to}`,
    });
  });
  svg.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
  svg.replaceChildren(...lines);
}

function middle(list, id, box) {
  const head = cardOf(list, id).querySelector(".head").getBoundingClientRect();
  return (head.top + head.height / 2 - box.top).toFixed(1);
}

/** Returns the card of a passage in one of the lists. */
export function cardOf(list, id) {
  return [...byId(list).children].find((each) => each.dataset.id === id);
}

/** Lets a card, its twin and its line stand out while the pointer or the focus is on one. */
export function linkHover(columns) {
  const mark = (event) => {
    const id = event.target.closest?.("[data-id]")?.dataset.id;
    for (const each of columns.querySelectorAll("[data-id]")) {
      each.classList.toggle("linked", each.dataset.id === id);
    }
    columns.classList.toggle("linking", id !== undefined);
  };
  for (const kind of ["pointerover", "pointerleave", "focusin", "focusout"]) {
    columns.addEventListener(kind, mark);
  }
}
