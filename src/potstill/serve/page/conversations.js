/* Conversations, in this browser's storage, one entry each.

   In:  conversations: {id, title, created, changed, turns: [{role, text, …}]}.
   Out: the same, newest first; as JSON or Markdown.
   Does not know: the page, the server. */

import { recall, recallNames, remember } from "./memory.js";

const ENTRY = "conversation.";
const LONGEST_TITLE = 60;

/** A conversation in which nothing has been said. It is kept once something has. */
export function newConversation() {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const now = new Date().toISOString();
  return { id, title: "", created: now, changed: now, turns: [] };
}

/** Keep it. Returns: whether the browser did. */
export function keepConversation(conversation) {
  conversation.changed = new Date().toISOString();
  return remember(ENTRY + conversation.id, JSON.stringify(conversation));
}

export function forgetConversation(id) {
  remember(ENTRY + id, null);
}

/** All that can be read, newest first; what something else wrote under our names is passed over. */
export function readConversations() {
  return recallNames(ENTRY)
    .map((name) => readEntry(recall(name)))
    .filter((found) => found !== null)
    .sort((one, other) => (one.changed < other.changed ? 1 : -1));
}

/** A title from the first question. */
export function titleOf(question) {
  const letters = Array.from(question.trim().split("\n")[0]);
  return letters.length > LONGEST_TITLE ? `${letters.slice(0, LONGEST_TITLE - 1).join("")}…` : letters.join("");
}

/** What the model is told: the turns so far; a question that was never answered goes with its empty answer. */
export function messagesOf(turns) {
  const messages = [];
  for (const turn of turns) {
    if (turn.role === "user" && messages.at(-1)?.role === "user") messages.pop();
    if (turn.role === "user" || turn.text) messages.push({ role: turn.role, content: turn.text });
  }
  return messages;
}

/** As Markdown, for people. `you` is what the person is called. */
export function asMarkdown(conversation, you) {
  const turns = conversation.turns.map(
    (turn) => `**${turn.role === "user" ? you : turn.model}**\n\n${turn.text}`,
  );
  return `# ${conversation.title}\n\n${turns.join("\n\n---\n\n")}\n`;
}

/** As JSON, for programs: `messages` is what the API takes. */
export function asJson(conversation) {
  return `${JSON.stringify({ ...conversation, messages: messagesOf(conversation.turns) }, null, 1)}\n`;
}

/** A file name without what file systems refuse. */
export function fileName(conversation, ending) {
  const name = conversation.title.replace(/[\\/:*?"<>|.\p{Cc}\s]+/gu, " ").trim();
  return `${name || "conversation"}.${ending}`;
}

function readEntry(text) {
  try {
    const found = JSON.parse(text);
    const texts = [found.id, found.title, found.created, found.changed];
    const sound = texts.every((one) => typeof one === "string") && Array.isArray(found.turns);
    return sound && found.turns.every(isTurn) ? found : null;
  } catch {
    return null;
  }
}

function isTurn(turn) {
  return typeof turn?.text === "string" && (turn.role === "user" || turn.role === "assistant");
}
