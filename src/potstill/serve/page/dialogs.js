/* Questions that must be answered first: sure? which key?

   In:  keys of words.
   Out: a promise of the answer.
   Does not know: what is asked for. */

import { make } from "./nodes.js";
import { word } from "./words.js";
import { keepKey } from "./api.js";

/** Whether the person is sure. */
export async function confirmed(title, text, yes) {
  return (await ask(title, text, yes, "chat.keep", [])) !== null;
}

/** Ask for the server's key and keep it. Returns: whether one was given. */
export async function askForKey() {
  const field = make("input", { class: "field", type: "password", autocomplete: "off", "aria-label": word("key.label"), autofocus: true });
  if ((await ask("key.title", "key.text", "key.use", "cancel", [field])) === null || !field.value.trim()) return false;
  keepKey(field.value.trim());
  return true;
}

function ask(title, text, yes, no, more) {
  const heading = make("h2", { id: "dialog-title" }, word(title));
  const refuse = make("button", { type: "button", class: "button", onclick: () => dialog.close() }, word(no));
  const accept = make("button", { type: "submit", class: "button strong" }, word(yes));
  const form = make("form", { method: "dialog" }, heading, make("p", { class: "quiet" }, word(text)), more, make("div", { class: "buttons" }, refuse, accept));
  const dialog = make("dialog", { "aria-labelledby": "dialog-title" }, form);
  let answer = null;
  form.addEventListener("submit", () => (answer = "yes"));
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
  });
}
