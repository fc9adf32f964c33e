// Requests to the search service. The page uses nothing else of the server.

let apiKey = null;

/** Use an API key until the page is closed; it is stored nowhere. */
export const useKey = (key) => { apiKey = key; };

/** An answer other than 200, or none: `status` 0. `field` names the part of the request that is wrong. */
export class ApiError extends Error {
  constructor(status, { type = "", message = "", field = null } = {}, retryAfter = null) {
    super(message || `The server answered with status ${status}.`);
    Object.assign(this, { status, type, field, retryAfter });
  }
}

async function answerOf(path, options) {
  const started = performance.now();
  let response;
  try {
    response = await fetch(new URL(path, new URL("../", document.baseURI)), {
      ...options,
      headers: { ...options.headers, ...(apiKey === null ? {} : { Authorization: `Bearer ${apiKey}` }) },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { type: "unreachable", message: "The server does not answer. It may have been stopped." });
  }
  const body = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null;
  });
  if (!response.ok || body === null) {
    throw new ApiError(response.status, body?.error, Number(response.headers.get("Retry-After")) || null);
  }
  return { ...body, roundTrip: performance.now() - started };
}

/** Return what the service says about its index and model. */
export const info = () => answerOf("info", {});

/** Return the answer to a search, with `roundTrip` in milliseconds. */
export const search = (request, signal) =>
  answerOf("search", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
