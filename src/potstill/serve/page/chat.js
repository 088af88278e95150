/* The chat page: what happens when something is clicked, typed or answered.

   In:  the markup of chat.html, and the person in front of it.
   Out: conversations that go on.
   Does not know: how answers travel (api.js), look (answer.js, markdown.js) or are kept (conversations.js). */

import { AnswerView, explain } from "./answer.js";
import { streamPatiently } from "./api.js";
import {
  asJson, asMarkdown, fileName, forgetConversation, keepConversation, messagesOf, newConversation, readConversations, titleOf,
} from "./conversations.js";
import { askForKey, confirmed } from "./dialogs.js";
import { onOtherTab } from "./memory.js";
import { fillModels } from "./models.js";
import { copyButton, find, make, saveFile } from "./nodes.js";
import { growing, sendsOnEnter } from "./question.js";
import { examples, onLanguage, startWords, word } from "./words.js";

const NEAR_END = 90;
const running = new Map(); // id of a conversation → {controller, view, earlier}
const rows = new Map(); // id of a conversation → its place in the list
let conversations = readConversations();
let current = conversations.find((one) => one.id === location.hash.slice(1)) ?? newConversation();

const talk = find("talk");
const turns = find("turns");
const question = find("question");
const model = find("model");
const notice = find("notice");

/* ---- asking ---- */

function send() {
  const text = question.value.trim();
  if (!text || running.has(current.id)) return;
  if (!model.value) {
    loadModels();
    return;
  }
  question.value = "";
  question.dispatchEvent(new Event("input"));
  if (!current.turns.length) begin(text);
  current.turns.push({ role: "user", text });
  keep(current);
  answer(current);
}

function begin(text) {
  current.title = titleOf(text);
  conversations.unshift(current);
  history.pushState(null, "", `#${current.id}`);
}

/* `earlier` is the answer that the new one takes the place of, unless nothing comes of it. */
async function answer(conversation, earlier = null) {
  const messages = messagesOf(conversation.turns);
  const turn = { role: "assistant", text: "", model: model.value, finish: null };
  const controller = new AbortController();
  const view = new AnswerView(turn);
  conversation.turns.push(turn);
  running.set(conversation.id, { controller, view, earlier });
  view.begin();
  show();
  toEnd(true);
  await finish(conversation, turn, view, messages, controller.signal);
  running.delete(conversation.id);
  if (earlier && !turn.text && turn.finish !== "stop") {
    conversation.turns[conversation.turns.indexOf(turn)] = earlier;
    if (conversation === current) show();
  }
  if (conversations.includes(conversation)) keep(conversation);
  if (conversation === current) dress(view);
  refresh();
}

async function finish(conversation, turn, view, messages, signal) {
  tell(null);
  try {
    const result = await streamPatiently({
      model: turn.model,
      messages,
      signal,
      onPiece: (piece) => {
        view.add(piece);
        toEnd();
      },
      onBusy: (seconds) => conversation === current && tell(seconds ? word("error.busy", { seconds }) : null),
      onDropped: () => (turn.dropped = true),
    });
    view.end(result.finish ?? "stop", result.speed);
    say("answer.done");
  } catch (error) {
    view.end(error.name === "AbortError" ? "stopped" : "cut");
    if (error.name === "AbortError") {
      tell(null);
      say("answer.ended");
    } else {
      if (!error.kind) console.error(error);
      await complain(conversation, error);
    }
  }
}

async function complain(conversation, error) {
  if (conversation !== current) return;
  const retry = () => {
    tell(null);
    again();
  };
  if (error.kind === "key" && (await askForKey())) setTimeout(retry);
  else tell(explain(error), error.kind === "too-long" ? null : retry);
}

/* The last question once more; an answer that is there already makes room. */
function again() {
  if (running.has(current.id)) return;
  const earlier = current.turns.at(-1)?.role === "assistant" ? current.turns.pop() : null;
  if (current.turns.at(-1)?.role !== "user") return;
  answer(current, earlier);
  question.focus();
}

function stop() {
  running.get(current.id)?.controller.abort();
}

/* ---- showing ---- */

function show() {
  const nodes = [];
  for (const turn of current.turns) {
    const task = running.get(current.id);
    nodes.push(turn.role === "user" ? questionNode(turn) : answerNode(turn, task?.view.turn === turn ? task.view : new AnswerView(turn)));
  }
  // closed before there was an answer
  if (current.turns.at(-1)?.role === "user") nodes.push(make("div", { class: "answer-meta" }, againButton()));
  const before = talk.scrollTop;
  turns.setAttribute("aria-live", "off"); // what was said before is not news
  turns.replaceChildren(...nodes);
  requestAnimationFrame(() => turns.setAttribute("aria-live", "polite"));
  talk.scrollTop = before;
  refresh();
}

/* Everything but the turns: title, list, buttons. */
function refresh() {
  const empty = !current.turns.length;
  const busy = running.has(current.id);
  find("welcome").hidden = !empty;
  find("title-row").hidden = empty;
  if (document.activeElement !== find("title")) find("title").value = current.title;
  document.title = empty ? "potstill" : `${current.title} · potstill`;
  find("send").hidden = busy;
  if (!busy && document.activeElement === find("stop")) question.focus();
  find("stop").hidden = !busy;
  find("delete-all").disabled = !conversations.length;
  list();
}

/* Rows stay where they are as far as they can: one that is taken out loses the focus, or the click it is about to get. */
function list() {
  const place = find("conversations");
  const focused = document.activeElement;
  const nodes = conversations.map(rowOf);
  if (!nodes.length) nodes.push(make("li", { class: "small quiet side-note" }, word("chat.empty")));
  nodes.forEach((node, index) => place.children[index] === node || place.insertBefore(node, place.children[index] ?? null));
  while (place.children.length > nodes.length) place.lastElementChild.remove();
  if (place.contains(focused)) focused.focus();
}

function rowOf(one) {
  const row = rows.get(one.id) ?? make("li", {}, make("button", { type: "button" }));
  rows.set(one.id, row);
  const button = row.firstElementChild;
  button.textContent = one.title;
  button.onclick = () => open(one);
  if (one === current) button.setAttribute("aria-current", "page");
  else button.removeAttribute("aria-current");
  return row;
}

function questionNode(turn) {
  const heading = make("h2", { class: "unseen" }, word("chat.you"));
  return make("article", { class: "turn turn-user" }, heading, make("div", { class: "said" }, turn.text));
}

function answerNode(turn, view) {
  const heading = make("h2", { class: "unseen" }, turn.model ?? "");
  view.node = make("article", { class: "turn turn-assistant" }, heading, view.text, view.meta);
  dress(view);
  return view.node;
}

/* What stands under an answer; a finished one is not built anew, so that a screen reader reads it once. */
function dress(view) {
  const { turn, node } = view;
  node.dataset.finish = turn.finish ?? "none";
  const actions = make("span", { class: "actions" });
  view.meta.replaceChildren(view.stats, actions);
  if (turn.dropped && !node.querySelector(".turn-note")) node.prepend(make("p", { class: "turn-note" }, word("chat.dropped")));
  if (!turn.finish) return;
  const words = [word("chat.copy"), word("chat.copied"), word("chat.copy-failed")];
  actions.append(copyButton(words, () => turn.text));
  if (turn === current.turns.at(-1)) actions.append(againButton());
}

function againButton() {
  return make("button", { type: "button", class: "plain", id: "again", onclick: again }, word("chat.again"));
}

/* Follow the text while the person reads at its end. */
function toEnd(always = false) {
  const left = talk.scrollHeight - talk.scrollTop - talk.clientHeight;
  if (always || left < NEAR_END) requestAnimationFrame(() => (talk.scrollTop = talk.scrollHeight));
}

function tell(text, retry = null) {
  notice.hidden = !text;
  const button = retry && make("button", { type: "button", class: "button", onclick: retry }, word("error.retry"));
  notice.replaceChildren(...(text ? [make("p", {}, text), button].filter(Boolean) : []));
}

function say(key) {
  find("status").textContent = "";
  find("status").textContent = word(key);
}

/* ---- keeping ---- */

function keep(conversation) {
  const kept = keepConversation(conversation);
  find("kept").dataset.word = kept ? "chat.kept" : "chat.not-kept";
  find("kept").textContent = word(find("kept").dataset.word);
  conversations.sort((one, other) => (one.changed < other.changed ? 1 : -1));
}

function open(conversation) {
  if (conversation !== current) history.pushState(null, "", conversation.turns.length ? `#${conversation.id}` : location.pathname);
  select(conversation);
}

function select(conversation) {
  current = conversation;
  tell(null);
  showSide(false);
  show();
  toEnd(true);
  if (matchMedia("(pointer: fine)").matches) question.focus();
}

async function deleteCurrent() {
  if (!(await confirmed("chat.delete-title", "chat.delete-text", "chat.delete"))) return;
  stop();
  forgetConversation(current.id);
  conversations = conversations.filter((one) => one !== current);
  open(newConversation());
}

async function deleteAll() {
  if (!(await confirmed("chat.delete-all-title", "chat.delete-all-text", "chat.delete-all"))) return;
  for (const { controller } of running.values()) controller.abort();
  for (const one of conversations) forgetConversation(one.id);
  conversations = [];
  open(newConversation());
}

/* Another tab has said, renamed or deleted something; what is being written here stays. */
function reread() {
  const found = readConversations();
  const mine = (one) => conversations.find((other) => other.id === one.id && (running.has(one.id) || other.changed === one.changed));
  conversations = found.map((one) => mine(one) ?? one);
  const fresh = conversations.find((one) => one.id === current.id);
  if (fresh && fresh !== current) select(fresh);
  else if (!fresh && current.turns.length && !running.has(current.id)) select(newConversation());
  else refresh();
}

function keepUnfinished() {
  for (const [id, { view, earlier }] of running) {
    const conversation = conversations.find((one) => one.id === id);
    const whole = (turn) => (turn === view.turn && !turn.text && earlier ? earlier : "finish" in turn ? { ...turn, finish: turn.finish ?? "cut" } : turn);
    if (conversation) keepConversation({ ...conversation, turns: conversation.turns.map(whole) });
  }
}

/* ---- starting ---- */

function showSide(opened) {
  document.body.classList.toggle("side-open", opened);
  find("menu").setAttribute("aria-expanded", String(opened));
  if (opened) find("new").focus();
}

async function loadModels() {
  try {
    await fillModels([model], (names) => names[0]);
    tell(null);
  } catch (error) {
    tell(explain(error), loadModels);
  }
}

function listen() {
  find("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  sendsOnEnter(question, send);
  growing(question);
  find("stop").addEventListener("click", stop);
  find("new").addEventListener("click", () => open(newConversation()));
  find("delete").addEventListener("click", deleteCurrent);
  find("delete-all").addEventListener("click", deleteAll);
  find("menu").addEventListener("click", () => showSide(true));
  find("shade").addEventListener("click", () => showSide(false));
  find("title").addEventListener("change", (event) => {
    current.title = event.target.value.trim() || word("chat.untitled");
    keep(current);
    refresh();
  });
  find("save-json").addEventListener("click", () => saveFile(fileName(current, "json"), "application/json", asJson(current)));
  find("save-markdown").addEventListener("click", () => saveFile(fileName(current, "md"), "text/markdown", asMarkdown(current, word("chat.you"))));
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.isComposing || document.querySelector("dialog[open]")) return;
    if (document.body.classList.contains("side-open")) showSide(false);
    else stop();
  });
  addEventListener("popstate", () => select(conversations.find((one) => one.id === location.hash.slice(1)) ?? newConversation()));
  addEventListener("pagehide", keepUnfinished);
  onOtherTab((name) => (!name || name.startsWith("conversation.")) && reread());
}

function showExamples() {
  const fill = (text) => {
    question.value = text;
    send();
  };
  find("examples").replaceChildren(
    ...examples().map((text) => make("li", {}, make("button", { type: "button", onclick: () => fill(text) }, text))),
  );
}

startWords();
listen();
onLanguage(() => {
  showExamples();
  show();
});
toEnd(true);
loadModels();
