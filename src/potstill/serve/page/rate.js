/* The rating page: a question, two answers that nobody's name is on, and what the rater thinks of them.

   In:  the token at the end of this page's address.
   Out: one vote a turn.
   Does not know: which model wrote what. Nothing that is sent to this page says so. */

import { readEvents, request, ServerError } from "./api.js";
import { explain } from "./answer.js";
import { Prose } from "./markdown.js";
import { find, make } from "./nodes.js";
import { onLanguage, startWords, word } from "./words.js";

const SIDES = ["a", "b"];
const address = location.pathname.replace(/\/+$/, "");
let state = null;
let complete = false;
let reading = null;

/* ---- a turn ---- */

function takeTurn(next) {
  state = next;
  reading?.abort();
  if (state.done) {
    part("rate.thanks", "rate.thanks-lede");
    return;
  }
  reading = new AbortController();
  complete = false;
  find("ballot").hidden = false;
  find("head").hidden = state.turn > 1; // read once
  find("ballot").reset();
  find("question").textContent = state.question;
  showProgress();
  enable();
  readBoth(reading.signal);
}

async function readBoth(signal) {
  tell(null);
  hint("rate.wait");
  for (const side of SIDES) find(`text-${side}`).replaceChildren(make("span", { class: "waiting", role: "img", "aria-label": word("rate.wait") }));
  try {
    await Promise.all(SIDES.map((side) => read(side, signal)));
    complete = true;
    enable();
    hint("rate.ready");
  } catch (error) {
    if (signal.aborted) return;
    reading.abort();
    fail(error, () => {
      reading = new AbortController();
      readBoth(reading.signal);
    });
  }
}

async function read(side, signal) {
  const place = find(`text-${side}`);
  const response = await request(`${address}/answer/${side}`, { signal });
  const prose = new Prose(place);
  let text = "";
  place.setAttribute("aria-busy", "true");
  for await (const event of readEvents(response)) {
    const piece = JSON.parse(event);
    if (piece.error) throw new ServerError("other", word("rate.failed"));
    if (!text) place.replaceChildren();
    if (piece.end) {
      if (!text.trim()) place.replaceChildren(make("p", { class: "quiet" }, word("rate.empty")));
      place.removeAttribute("aria-busy");
      return;
    }
    text += piece.text;
    prose.show(text);
    hint("rate.read");
  }
  throw new ServerError("broken");
}

/* ---- the vote ---- */

async function vote() {
  const form = new FormData(find("ballot"));
  const ballot = { turn: state.turn, a: Number(form.get("a")), b: Number(form.get("b")), better: form.get("better") };
  find("next").disabled = true;
  try {
    takeTurn(await (await request(`${address}/vote`, { method: "POST", body: ballot })).json());
    scrollTo({ top: 0 });
    find(state.done ? "heading" : "question").focus();
  } catch (error) {
    // rated in another tab, or sent twice: the server knows which turn is next
    if (error.status === 409) start();
    else fail(error, vote);
  }
}

function chosen() {
  const form = new FormData(find("ballot"));
  return form.has("a") && form.has("b") && form.has("better");
}

function enable() {
  for (const field of document.querySelectorAll("#ballot input")) field.disabled = !complete;
  find("next").disabled = !complete || !chosen();
}

/* ---- showing ---- */

function showProgress() {
  const { turn, questions_total: total } = state;
  find("turn").textContent = word("rate.turn", { turn, total });
  const step = (place) => make("li", { class: place < turn ? "done" : place === turn && "now" });
  find("steps").replaceChildren(...Array.from({ length: total }, (_, place) => step(place + 1)));
  find("next").dataset.word = turn === total ? "rate.last" : "rate.next";
  find("next").textContent = word(find("next").dataset.word);
}

function showChoices() {
  const before = new FormData(find("ballot"));
  const pick = (name, value, text, label) => {
    const input = make("input", { type: "radio", name, value, "aria-label": label });
    input.checked = before.get(name) === value; // no attribute: the next question's reset would come back to it
    return make("label", { class: "pick" }, input, text);
  };
  for (const side of SIDES) {
    find(`long-${side}`).textContent = word("rate.answer", { side: side.toUpperCase() });
    const label = (score) => ({ 1: word("rate.low"), 5: word("rate.high") })[score] ?? String(score);
    find(`scale-${side}`).replaceChildren(...[1, 2, 3, 4, 5].map((score) => pick(side, String(score), String(score), label(score))));
  }
  find("better").replaceChildren(...["a", "same", "b"].map((value) => pick("better", value, word(`rate.${value}`), word(`rate.${value}`))));
}

/* The page says goodbye, or that it can't go on. */
function part(title, lede) {
  find("ballot").hidden = true;
  find("head").hidden = false;
  find("heading").dataset.word = title;
  find("lede").dataset.word = lede;
  find("heading").textContent = word(title);
  find("lede").textContent = word(lede);
  find("heading").tabIndex = -1;
}

function hint(key) {
  if (find("hint").dataset.word === key) return;
  find("hint").dataset.word = key;
  find("hint").textContent = word(key);
}

function tell(text, retry = null) {
  const button = retry && make("button", { type: "button", class: "button", onclick: retry }, word("error.retry"));
  find("notice").hidden = !text;
  find("notice").replaceChildren(...(text ? [make("p", {}, text), button].filter(Boolean) : []));
}

function fail(error, retry) {
  if (error.status === 404) part("rate.unknown", "rate.unknown-lede");
  else tell(explain(error), retry);
  enable();
}

async function start() {
  tell(null);
  try {
    takeTurn(await (await request(`${address}/state`)).json());
  } catch (error) {
    fail(error, start);
  }
}

startWords();
onLanguage(() => {
  showChoices();
  enable();
  if (state && !state.done) showProgress();
});
find("ballot").addEventListener("change", () => {
  enable();
  if (complete) hint(chosen() ? "rate.ready" : "rate.missing");
});
find("ballot").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!find("next").disabled) vote();
});
start();
