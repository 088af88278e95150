/* Building the page's nodes. Text goes in as text: nothing here, or in any other module, parses HTML.

   In:  a tag, its attributes, its children.
   Out: a node.
   Does not know: words, models, storage. */

/** A node. `attributes` whose names begin with "on" are listeners; children are nodes, texts, or nothing. */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** The node with this id. */
export function find(id) {
  return document.getElementById(id);
}

/** Let the browser save `text` as a file. */
export function saveFile(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

/** A button that copies what `text()` gives and says so for a moment. `words` are: at rest, copied, refused. */
export function copyButton(words, text, attributes = {}) {
  const button = make("button", { type: "button", class: "plain", ...attributes }, words[0]);
  let back;
  button.addEventListener("click", async () => {
    clearTimeout(back);
    button.textContent = (await copied(text())) ? words[1] : words[2];
    back = setTimeout(() => (button.textContent = words[0]), 1600);
  });
  return button;
}

/* The clipboard is closed to pages that come over plain HTTP from another machine; the older way still works there. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = make("textarea", { class: "unseen", "aria-hidden": "true", tabindex: "-1" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}
