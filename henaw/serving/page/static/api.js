// Asking the server. The key is here and nowhere else: not in storage, not in an address.

let key = null;

export function setKey(text) {
  key = text;
}

/** Why there is no answer: the server's error code ("UNREACHABLE" where there is no server), and what it said. */
export class Problem extends Error {
  constructor(code, message, { details = [], id = null, wait = null } = {}) {
    super(message);
    Object.assign(this, { code, details, id, wait });
  }
}

/** The version that answers, described: markers, units, ranges, limits. */
export const askModel = async () => (await request("page/model.json", { method: "GET" })).reply;

/** One row with its explanation. */
export const askOne = (form, signal) => post("page/answer", form, signal);

/** Rows, waiting and trying again where the server is busy. `onWait` is told how many seconds it waits. */
export async function askMany(form, signal, onWait) {
  for (let left = MOST_TRIES; ; left -= 1) {
    try {
      return await post("invocations", form, signal);
    } catch (problem) {
      if (left <= 0 || !(problem instanceof Problem) || problem.wait === null) throw problem;
      onWait(problem.wait);
      await pause(problem.wait, signal);
    }
  }
}

const MOST_TRIES = 20;
const LONGEST_WAIT = 60;

const post = (path, form, signal) =>
  request(path, { method: "POST", body: JSON.stringify(form), headers: { "content-type": "application/json" }, signal });

async function request(path, { headers = {}, ...options }) {
  const settings = {
    ...options,
    headers: key === null ? headers : { ...headers, authorization: `Bearer ${key}` },
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    referrerPolicy: "no-referrer",
  };
  let response;
  try {
    response = await fetch(path, settings);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("UNREACHABLE", "the server does not answer");
  }
  const reply = await response.json().catch(() => ({}));
  if (response.ok) return { reply, model: response.headers.get("henaw-model") };
  throw new Problem(reply.error_code ?? `HTTP ${response.status}`, reply.message ?? "", {
    details: reply.details ?? [],
    id: reply.request_id ?? null,
    wait: waited(response),
  });
}

/** Seconds after which to try again, where trying again helps. */
function waited(response) {
  if (response.status !== 429 && response.status !== 503) return null;
  return Math.min(LONGEST_WAIT, Math.max(1, Number(response.headers.get("retry-after")) || 1));
}

export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const ended = () => reject(new DOMException("stopped", "AbortError"));
    if (signal?.aborted) ended();
    setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", ended, { once: true });
  });
}
