/* The browser's own storage, which may be full, forbidden or filled by someone else.

   In:  names and texts.
   Out: what was kept, or null; whether keeping worked.
   Does not know: what the texts mean. */

const PREFIX = "potstill.";

/** What was kept under `name`; null where there is nothing, or no storage. */
export function recall(name) {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

/** Keep `text`, or forget it where it is null. Returns: whether the browser did. */
export function remember(name, text) {
  try {
    if (text === null) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, text);
    return true;
  } catch {
    return false;
  }
}

/** Names that begin with `start`. */
export function recallNames(start) {
  try {
    return Object.keys(localStorage)
      .filter((key) => key.startsWith(PREFIX + start))
      .map((key) => key.slice(PREFIX.length));
  } catch {
    return [];
  }
}

/** Call `listener(name)` when another tab changed something. */
export function onOtherTab(listener) {
  addEventListener("storage", (event) => {
    if (event.key === null || event.key.startsWith(PREFIX)) listener(event.key?.slice(PREFIX.length) ?? "");
  });
}
