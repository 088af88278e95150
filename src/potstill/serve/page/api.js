/* The server's side of things: models, streamed answers, and what can go wrong, in six kinds.

   In:  requests.
   Out: answers in pieces; `ServerError`.
   Does not know: the page, words, storage but for the key. */

import { recall, remember } from "./memory.js";

const TRIES = 6;
const ROOM = 0.25; // of the context, for the answer; as in `potstill chat`
const LONGEST_PAUSE = 30;

/** What went wrong. kind: busy, key, too-long, unreachable, broken, other. */
export class ServerError extends Error {
  constructor(kind, message = "", retryAfter = 0, status = 0) {
    super(message || kind);
    this.kind = kind;
    this.retryAfter = retryAfter;
    this.status = status;
  }
}

/** Keep the key of the server in this browser; an empty one is forgotten. */
export function keepKey(key) {
  remember("key", key || null);
}

/** A request with the key, where there is one. Raises: ServerError where the answer isn't a good one. */
export async function request(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  const key = recall("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, cache: "no-store", body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("unreachable");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** Names of the models, the server's first choice first. */
export async function listModels() {
  const { data } = await (await request("/v1/models")).json();
  return data.map((model) => model.id);
}

/** The payloads of a stream of server-sent events. Raises: ServerError("broken") where the line breaks. */
export async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + value).split(/\r?\n\r?\n/);
      rest = events.pop();
      for (const event of events) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError("broken");
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** One answer. Returns: why it ended and, where the server says so, its tokens a second. */
async function streamAnswer({ model, messages, room, signal, onPiece }) {
  const body = { model, messages, room, stream: true, stream_options: { include_usage: true }, seed: randomSeed() };
  const response = await request("/v1/chat/completions", { method: "POST", body, signal });
  const result = { finish: null, speed: null };
  for await (const event of readEvents(response)) {
    if (event === "[DONE]") return result;
    const chunk = JSON.parse(event);
    if (chunk.error) throw new ServerError("other", chunk.error.message);
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) onPiece(choice.delta.content);
    result.finish = choice?.finish_reason ?? result.finish;
    result.speed = chunk.potstill?.tokens_per_s || result.speed;
  }
  throw new ServerError("broken");
}

/** As `streamAnswer`; waits where the server is busy, and leaves out the oldest turns where they leave too little room.

   onBusy(seconds) is called once a second of waiting; onDropped() whenever a turn is left out. */
export async function streamPatiently({ messages, onBusy, onDropped, ...rest }) {
  let tries = 0;
  let asked = messages;
  for (;;) {
    try {
      return await streamAnswer({ messages: asked, room: asked.length > 2 ? ROOM : 0, ...rest });
    } catch (error) {
      if (error.kind === "too-long" && asked.length > 2) {
        asked = asked.slice(2);
        onDropped();
      } else if (error.kind === "busy" && ++tries < TRIES) {
        for (let left = Math.min(error.retryAfter, LONGEST_PAUSE); left > 0; left--) {
          onBusy(left);
          await pause(1000, rest.signal);
        }
        onBusy(0);
      } else {
        throw error;
      }
    }
  }
}

async function refusal(response) {
  const { message, code } = await explanation(response);
  const retryAfter = Number.parseInt(response.headers.get("Retry-After"), 10) || 0;
  let kind = "other";
  if (code === "context_length_exceeded") kind = "too-long";
  else if (response.status === 401) kind = "key";
  else if (retryAfter) kind = "busy"; // a 503 without it will not pass by itself
  return new ServerError(kind, message, retryAfter, response.status);
}

async function explanation(response) {
  const fallback = { message: `HTTP ${response.status}`, code: null };
  try {
    const { error, detail } = await response.json();
    if (error) return { message: error.message, code: error.code };
    return { message: typeof detail === "string" ? detail : fallback.message, code: null };
  } catch {
    return fallback;
  }
}

/* Without a seed of its own, asking again could bring the same answer. */
function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}
