// The query as commands that can be copied.

import { address } from "./api.js";
import { byId, element } from "./dom.js";

/** Shows curl and Python of a request: a path and its body, in which undefined is left out. */
export function showSnippets(path, body) {
  byId("snippets").replaceChildren(
    snippet("curl", curl(path, body)),
    snippet("Python", python(path, body)),
  );
}

function curl(path, body) {
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  return `curl ${address(path)} \\\n  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`;
}

function python(path, body) {
  return [
    "import json, urllib.request",
    "",
    `body = ${literal(body)}`,
    `request = urllib.request.Request(${JSON.stringify(address(path))}, json.dumps(body).encode(),`,
    `                                 {"Content-Type": "application/json"})`,
    "for result in json.load(urllib.request.urlopen(request))[\"results\"]:",
    "    print(result)",
  ].join("\n");
}

/** Returns a value of JSON as Python writes it. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    const pairs = Object.entries(value)
      .filter(([, each]) => each !== undefined)
      .map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`);
    return `{${pairs.join(", ")}}`;
  }
  return JSON.stringify(value);
}

function snippet(name, text) {
  const copy = element("button", { type: "button", class: "copy" }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      copy.textContent = "Selected";
    }
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  const code = element("code", {}, text);
  const head = element("div", { class: "snippet-head" }, element("h3", {}, name), copy);
  return element("div", { class: "snippet" }, head, element("pre", {}, code));
}
