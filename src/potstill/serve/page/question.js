/* A box for questions: Enter sends, Shift+Enter starts a line, and it grows with what is written.

   In:  a textarea.
   Out: calls.
   Does not know: what is asked, or whom. */

/** Call `send` on Enter, but not on the Enter that chooses a word while Chinese is being typed. */
export function sendsOnEnter(box, send) {
  box.addEventListener("keydown", (event) => {
    const composing = event.isComposing || event.keyCode === 229;
    if (event.key !== "Enter" || event.shiftKey || composing) return;
    event.preventDefault();
    send();
  });
}

/** Let the box grow where the browser doesn't do it by itself (field-sizing in the style sheet). */
export function growing(box) {
  if (CSS.supports("field-sizing", "content")) return;
  box.addEventListener("input", () => {
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  });
}
