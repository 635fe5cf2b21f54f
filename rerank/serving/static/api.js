// Requests to the server that this page came from.

/** An answer that is no success, with the sentence of the server. */
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const base = new URL(".", document.baseURI);
let key = "";

/** Sets the key that is sent from now on; it is kept in memory alone. */
export function useKey(given) {
  key = given;
}

/** Returns the whole address of a path of the server. */
export const address = (path) => new URL(path, base).href;

/** Returns the JSON that a path answers. A `body` is posted. Throws `ServerError`. */
export async function ask(path, body, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(address(path), {
      method: body ? "POST" : "GET",
      body: body && JSON.stringify(body),
      headers,
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server cannot be reached: is it still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new ServerError(response.status, answer.message || `The server answered ${response.status}.`);
  }
  return answer;
}
