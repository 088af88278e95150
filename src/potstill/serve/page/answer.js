/* One answer on the page while it comes and afterwards: its text, its speed, how it ended.

   In:  pieces of text; how it ended.
   Out: a node, kept up to date once a frame.
   Does not know: conversations, models, where pieces come from. */

import { make } from "./nodes.js";
import { Prose } from "./markdown.js";
import { word } from "./words.js";

/** Shows `turn`: {text, model, finish, firstToken, speed}; finish is null while it is being written. */
export class AnswerView {
  constructor(turn, { showModel = true } = {}) {
    this.turn = turn;
    this.showModel = showModel;
    this.text = make("div", { class: "prose" });
    this.stats = make("span", { class: "stats" });
    this.meta = make("div", { class: "answer-meta" }, this.stats);
    this.prose = new Prose(this.text);
    this.pieces = 0;
    this.frame = 0;
    if (turn.text || turn.finish) this.draw();
  }

  /** The question is on its way. */
  begin() {
    this.started = performance.now();
    this.pieces = 0;
    this.text.setAttribute("aria-busy", "true");
    this.text.replaceChildren(make("span", { class: "waiting", role: "img", "aria-label": word("answer.thinking") }));
    this.draw();
  }

  add(piece) {
    const now = performance.now();
    if (!this.pieces++) {
      this.firstAt = now;
      this.turn.firstToken = (now - this.started) / 1000;
      this.text.replaceChildren();
      this.prose = new Prose(this.text);
    }
    this.turn.text += piece;
    // each piece is a token, near enough, until the server says better
    const seconds = (now - this.firstAt) / 1000;
    if (seconds > 0.05) this.turn.speed = (this.pieces - 1) / seconds;
    // a frame never comes while the page is hidden; then nobody looks either
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  /** It is over. `speed`: tokens a second, where the server says so. */
  end(finish, speed = null) {
    cancelAnimationFrame(this.frame);
    if (speed) this.turn.speed = speed;
    this.turn.finish = finish;
    if (!this.pieces && this.started) this.text.replaceChildren();
    this.draw();
    this.text.removeAttribute("aria-busy");
  }

  draw() {
    if (this.turn.text) this.prose.show(this.turn.text);
    this.stats.replaceChildren(...this.facts().map((fact) => make("span", {}, fact)));
  }

  facts() {
    const { model, firstToken, speed, finish } = this.turn;
    const endings = { stopped: "answer.stopped", cut: "answer.cut", length: "answer.limit" };
    return [
      this.showModel && model,
      firstToken !== undefined && word("answer.first", { seconds: firstToken.toFixed(firstToken < 10 ? 2 : 1) }),
      speed !== undefined && word("answer.speed", { speed: speed.toFixed(speed < 10 ? 1 : 0) }),
      endings[finish] && word(endings[finish]),
    ].filter(Boolean);
  }
}

/** What to tell a person about an error. */
export function explain(error) {
  const keys = { busy: "error.still-busy", key: "error.key", "too-long": "error.too-long", unreachable: "error.unreachable", broken: "error.broken" };
  return keys[error.kind] ? word(keys[error.kind]) : word("error.other", { message: error.message });
}
