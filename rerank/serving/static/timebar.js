// Where the time of an answer went.

import { element, figure } from "./dom.js";

const STEPS = [
  ["queued", "waiting"],
  ["encode", "encoding the query"],
  ["retrieve", "vector search"],
  ["gather", "reading tokens"],
  ["score", "DiPair"],
];

/** Fills the figure with a bar of the steps, in seconds, and the rest of the seconds in all. */
export function showTime(box, timings, seconds) {
  const steps = STEPS.filter(([name]) => timings[name] > 0).map(([name, said]) => [
    name,
    said,
    timings[name],
  ]);
  const known = steps.reduce((sum, [, , time]) => sum + time, 0);
  const rest = Math.max(seconds - known, 0);
  steps.push(["rest", steps.length ? "network and page" : "encoding, scoring and network", rest]);
  const bar = element("div", { class: "bar", "aria-hidden": "true" });
  const legend = element("ul", { class: "legend" });
  for (const [name, said, time] of steps) {
    const part = element("span", { class: name });
    part.style.flexGrow = `${(100 * time) / (known + rest)}`; // a sum under 1 would not fill the bar
    bar.append(part);
    legend.append(
      element("li", { class: name }, `${said} `, element("b", {}, `${milliseconds(time)} ms`)),
    );
  }
  const total = element("figcaption", {}, element("b", {}, `${milliseconds(seconds)} ms`), " in all");
  box.replaceChildren(total, bar, legend);
}

function milliseconds(seconds) {
  return figure(1000 * seconds, seconds < 0.01 ? 1 : 0);
}
