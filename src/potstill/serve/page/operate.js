/* The operator's page: links for raters, and what has come in.

   In:  names of raters.
   Out: a link for each; results, and the same as CSV.
   Does not know: how raters rate. */

import { request } from "./api.js";
import { explain } from "./answer.js";
import { askForKey } from "./dialogs.js";
import { copyButton, find, make, saveFile } from "./nodes.js";
import { onLanguage, startWords, word } from "./words.js";

let results = null;

async function refresh() {
  try {
    results = await (await request("/operate/results")).json();
    tell(null);
    show();
  } catch (error) {
    await complain(error, refresh);
  }
}

async function invite(name, renew) {
  try {
    const { url } = await (await request("/operate/raters", { method: "POST", body: { name, renew } })).json();
    showLink(name, new URL(url, location.href).href);
    find("name").value = "";
    await refresh();
  } catch (error) {
    if (error.status === 409) tell(word("operate.taken", { name }), () => invite(name, true), word("operate.renew"));
    else await complain(error, () => invite(name, renew));
  }
}

async function saveCsv() {
  try {
    saveFile("ratings.csv", "text/csv", await (await request("/operate/results.csv")).text());
  } catch (error) {
    await complain(error, saveCsv);
  }
}

async function complain(error, retry) {
  if (error.kind === "key" && (await askForKey())) {
    await retry();
  } else {
    tell(error.status === 403 || error.kind === "key" ? word("operate.refused") : explain(error), retry);
  }
}

function show() {
  const { raters, models, same, questions_total: total } = results;
  find("board").hidden = false;
  const row = ({ name, done }) =>
    make("tr", {},
      make("th", { scope: "row" }, name),
      make("td", { class: "wide" }, make("span", { class: "bar" }, make("progress", { value: done, max: total, "aria-label": word("operate.progress") }))),
      make("td", {}, word("operate.of", { done, total })),
      make("td", { class: "end" }, make("button", { type: "button", class: "plain", "aria-label": word("operate.renew-for", { name }), onclick: () => invite(name, true) }, word("operate.renew"))),
    );
  const nobody = make("tr", {}, make("td", { colspan: "4", class: "quiet" }, word("operate.no-raters")));
  find("raters").replaceChildren(...(raters.length ? raters.map(row) : [nobody]));
  find("models").replaceChildren(
    ...Object.entries(models).map(([name, { ratings, mean, better }]) =>
      make("tr", {}, make("th", { scope: "row" }, name), ...[ratings, mean === null ? "–" : mean.toFixed(2), better].map((cell) => make("td", { class: "end" }, String(cell)))),
    ),
  );
  find("alike").textContent = word("operate.alike", { count: same });
  find("csv").disabled = !Object.values(models).some(({ ratings }) => ratings);
}

function showLink(name, link) {
  const words = [word("operate.copy"), word("chat.copied"), word("chat.copy-failed")];
  find("link").hidden = false;
  find("link").replaceChildren(
    make("p", { class: "small quiet" }, word("operate.link-for", { name })),
    make("code", {}, link),
    copyButton(words, () => link, { class: "button" }),
  );
}

function tell(text, retry = null, label = word("error.retry")) {
  const act = () => {
    tell(null);
    retry();
  };
  const button = retry && make("button", { type: "button", class: "button", onclick: act }, label);
  find("notice").hidden = !text;
  find("notice").replaceChildren(...(text ? [make("p", {}, text), button].filter(Boolean) : []));
}

startWords();
onLanguage(() => {
  if (results) show();
});
find("invite").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = find("name").value.trim();
  if (name) invite(name, false);
});
find("refresh").addEventListener("click", refresh);
find("csv").addEventListener("click", saveCsv);
refresh();
