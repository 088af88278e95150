/* The compare page: one question, answered by two models side by side.

   In:  the markup of compare.html.
   Out: two answers as they come. Nothing is kept.
   Does not know: how answers travel (api.js) or look (answer.js). */

import { AnswerView, explain } from "./answer.js";
import { streamPatiently } from "./api.js";
import { askForKey } from "./dialogs.js";
import { fillModels } from "./models.js";
import { copyButton, find, make } from "./nodes.js";
import { growing, sendsOnEnter } from "./question.js";
import { onLanguage, startWords, word } from "./words.js";

const SIDES = ["first", "second"];
const question = find("question");
let controller = null;
let asked = "";

async function send() {
  const text = question.value.trim();
  if (!text || controller) return;
  if (!find("first").value) {
    loadModels();
    return;
  }
  asked = text;
  question.value = "";
  question.dispatchEvent(new Event("input"));
  find("asked").textContent = text;
  find("asked").hidden = false;
  tell(null);
  controller = new AbortController();
  buttons();
  const errors = await Promise.all(SIDES.map((side) => answer(side, text, controller.signal)));
  controller = null;
  buttons();
  await complain(errors.find(Boolean));
}

/* One side. Returns: what went wrong. */
async function answer(side, text, signal) {
  const turn = { role: "assistant", text: "", model: find(side).value, finish: null };
  const view = new AnswerView(turn, { showModel: false });
  const place = find(`answer-${side}`);
  view.meta.replaceChildren(view.stats);
  place.replaceChildren(view.text, view.meta);
  view.begin();
  const onBusy = (seconds) => tell(seconds ? word("error.busy", { seconds }) : null);
  try {
    const messages = [{ role: "user", content: text }];
    const result = await streamPatiently({ model: turn.model, messages, signal, onPiece: (piece) => view.add(piece), onBusy, onDropped: () => {} });
    view.end(result.finish ?? "stop", result.speed);
    return null;
  } catch (error) {
    view.end(error.name === "AbortError" ? "stopped" : "cut");
    return error.name === "AbortError" ? null : error;
  } finally {
    const words = [word("chat.copy"), word("chat.copied"), word("chat.copy-failed")];
    if (turn.text) view.meta.append(make("span", { class: "actions" }, copyButton(words, () => turn.text)));
  }
}

async function complain(error) {
  if (!error) return;
  const retry = () => {
    question.value = asked;
    send();
  };
  if (error.kind === "key" && (await askForKey())) retry();
  else tell(explain(error), error.kind === "too-long" ? null : retry);
}

function buttons() {
  if (!controller && document.activeElement === find("stop")) question.focus();
  find("send").hidden = controller !== null;
  find("stop").hidden = controller === null;
  for (const side of SIDES) find(side).disabled = controller !== null;
}

function tell(text, retry = null) {
  const button = retry && make("button", { type: "button", class: "button", onclick: retry }, word("error.retry"));
  find("notice").hidden = !text;
  find("notice").replaceChildren(...(text ? [make("p", {}, text), button].filter(Boolean) : []));
}

/* The first two by default: the student that ships and, where there is one, the teacher. */
async function loadModels() {
  try {
    await fillModels(SIDES.map(find), (names, place) => (place ? (names.includes("teacher") ? "teacher" : names.at(-1)) : names[0]));
    tell(null);
  } catch (error) {
    tell(explain(error), loadModels);
  }
}

startWords();
onLanguage(() => {
  for (const side of SIDES) {
    const place = find(`answer-${side}`);
    if (!place.querySelector(".answer-meta")) place.replaceChildren(make("p", { class: "quiet" }, word("compare.empty")));
  }
});
find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
sendsOnEnter(question, send);
growing(question);
find("stop").addEventListener("click", () => controller?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) controller?.abort();
});
loadModels();
