/* Markdown, the part that chat models write, as nodes: paragraphs, headings, lists, quotes, tables, code, bold, italic.

   In:  text from a model, whole or still growing: nobody vouches for it.
   Out: nodes whose texts are texts; tags, addresses and attributes never come from the model.
   Does not know: who wrote the text, how it arrives. */

import { copyButton, make } from "./nodes.js";
import { word } from "./words.js";

const DEEPEST = 5;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}>\s?/;
const ITEM = /^(\s*)([-*+•]|\d{1,9}[.)])\s+(.*)$/;
const ROW_BORDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Shows a growing text in a node and touches only the blocks that have changed: what is selected stays selected. */
export class Prose {
  constructor(node) {
    this.node = node;
    this.sources = [];
  }

  show(text) {
    const blocks = parseBlocks(text);
    let same = 0;
    while (same < blocks.length && same < this.sources.length && blocks[same].source === this.sources[same]) same++;
    while (this.node.childNodes.length > same) this.node.lastChild.remove();
    this.node.append(...blocks.slice(same).map((block) => renderBlock(block)));
    this.sources = blocks.map((block) => block.source);
  }
}

/** Blocks of a text, each with its kind and the source it came from. */
export function parseBlocks(text, depth = 0) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at++;
      continue;
    }
    const block = blockAt(lines, at, depth);
    // a block's source says all that its look depends on
    block.source = `${block.kind}\n${lines.slice(at, block.end).join("\n")}`;
    at = block.end;
    blocks.push(block);
  }
  return blocks;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return codeAt(lines, at);
  const heading = HEADING.exec(line);
  if (heading) return { kind: "heading", level: heading[1].length, text: heading[2].trim().replace(/ #+$/, ""), end: at + 1 };
  if (RULE.test(line)) return { kind: "rule", end: at + 1 };
  if (depth < DEEPEST && QUOTE.test(line)) return quoteAt(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return listAt(lines, at, depth);
  if (isTable(lines, at)) return tableAt(lines, at);
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !interrupts(lines, end, depth)) end++;
  return { kind: "paragraph", text: lines.slice(at, end).join("\n").trim(), end };
}

function interrupts(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line) || HEADING.test(line) || isTable(lines, at)) return true;
  return depth < DEEPEST && (QUOTE.test(line) || ITEM.test(line));
}

function codeAt(lines, at) {
  const [, fence, info] = FENCE.exec(lines[at]);
  let end = at + 1;
  const closes = (line) => {
    const text = line.trim();
    return text.length >= fence.length && text === fence[0].repeat(text.length);
  };
  while (end < lines.length && !closes(lines[end])) end++;
  const text = lines.slice(at + 1, end).join("\n");
  return { kind: "code", language: info.trim().split(/\s/)[0], text, end: Math.min(end + 1, lines.length) };
}

function quoteAt(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return { kind: "quote", blocks: parseBlocks(inner.join("\n"), depth + 1), end };
}

function listAt(lines, at, depth) {
  const [, indent, marker] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(marker);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const found = ITEM.exec(lines[end]);
    const sibling = found && found[1].length <= indent.length + 1;
    if (sibling && /\d/.test(found[2]) !== ordered) break;
    if (sibling) items.push([found[3]]);
    else if (belongs(lines, end, indent.length)) items.at(-1).push(lines[end]);
    else break;
    end++;
  }
  const parsed = items.map((item) => parseBlocks(dedent(item), depth + 1));
  return { kind: "list", ordered, start: ordered ? Number.parseInt(marker, 10) : 1, items: parsed, end };
}

/* Whether a line goes on with the item above it: indented, or empty with something indented or another item after it. */
function belongs(lines, at, indent) {
  const line = lines[at];
  if (line.trim()) return line.search(/\S/) > indent || (at > 0 && lines[at - 1].trim() && !interrupts(lines, at, 0));
  const next = lines.slice(at).find((other) => other.trim());
  return next !== undefined && (next.search(/\S/) > indent || ITEM.test(next));
}

function dedent([first, ...others]) {
  const indents = others.filter((line) => line.trim()).map((line) => line.search(/\S/));
  const least = indents.length ? Math.min(...indents) : 0;
  return [first, ...others.map((line) => line.slice(least))].join("\n");
}

function isTable(lines, at) {
  const border = lines[at + 1];
  return lines[at].includes("|") && border !== undefined && border.includes("-") && border.includes("|") && ROW_BORDER.test(border);
}

function tableAt(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].trim() && lines[end].includes("|")) end++;
  const head = cells(lines[at]);
  const rows = lines.slice(at + 2, end).map((line) => cells(line));
  return { kind: "table", head, rows: rows.map((row) => head.map((_, column) => row[column] ?? "")), end };
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim());
}

function renderBlock(block) {
  switch (block.kind) {
    case "heading":
      // the page has headings of the first two levels itself
      return make(`h${Math.min(block.level + 2, 6)}`, {}, inline(block.text));
    case "rule":
      return make("hr");
    case "code":
      return renderCode(block);
    case "quote":
      return make("blockquote", {}, block.blocks.map((inner) => renderBlock(inner)));
    case "list":
      return make(block.ordered ? "ol" : "ul", { start: block.ordered && block.start !== 1 && block.start }, block.items.map(renderItem));
    case "table":
      return renderTable(block);
    default:
      return make("p", {}, inline(block.text));
  }
}

function renderItem(blocks) {
  const tight = blocks.every((block, place) => block.kind !== "paragraph" || place === 0);
  return make("li", {}, blocks.map((block) => (tight && block.kind === "paragraph" ? inline(block.text) : renderBlock(block))));
}

function renderCode({ language, text }) {
  const words = [word("chat.copy"), word("chat.copied"), word("chat.copy-failed")];
  const caption = make("figcaption", {}, make("span", {}, language), copyButton(words, () => text, { "aria-label": word("chat.copy-code") }));
  // a scrolling region must be within reach of the keyboard
  return make("figure", { class: "code" }, caption, make("pre", { tabindex: "0" }, make("code", {}, text)));
}

function renderTable({ head, rows }) {
  const line = (tag, texts) => make("tr", {}, texts.map((text) => make(tag, {}, inline(text))));
  const table = make("table", {}, make("thead", {}, line("th", head)), make("tbody", {}, rows.map((row) => line("td", row))));
  return make("div", { class: "sheet", tabindex: "0" }, table);
}

/** Nodes and texts of a line with code, bold and italic in it. */
function inline(text, depth = 0) {
  const found = [];
  let plain = "";
  let at = 0;
  while (at < text.length) {
    const span = depth < DEEPEST ? spanAt(text, at, depth) : null;
    if (span) {
      found.push(plain, span.node);
      plain = "";
      at = span.end;
    } else {
      plain += text[at++];
    }
  }
  return [...found, plain].filter((part) => part !== "");
}

function spanAt(text, at, depth) {
  switch (text[at]) {
    case "`":
      return codeSpan(text, at);
    case "\\":
      return /[\\`*_{}[\]#+\-.!|>~]/.test(text[at + 1] ?? "") ? { node: text[at + 1], end: at + 2 } : null;
    case "*":
    case "_":
      return emphasis(text, at, depth, 2, "strong") ?? emphasis(text, at, depth, 1, "em");
    default:
      return null;
  }
}

function codeSpan(text, at) {
  const ticks = /^`+/.exec(text.slice(at))[0];
  for (let close = text.indexOf(ticks, at + ticks.length); close !== -1; close = text.indexOf(ticks, close + 1)) {
    if (text[close + ticks.length] === "`" || text[close - 1] === "`") continue;
    const inner = text.slice(at + ticks.length, close);
    return { node: make("code", {}, inner.replace(/^ (.*\S.*) $/s, "$1")), end: close + ticks.length };
  }
  return null;
}

function emphasis(text, at, depth, length, tag) {
  const mark = text[at].repeat(length);
  if (!text.startsWith(mark, at) || !/\S/.test(text[at + length] ?? "") || text[at + length] === mark[0]) return null;
  // 2*3*4 and snake_case_names are not emphasis
  if ((mark[0] === "_" || length === 1) && /[\w]/.test(text[at - 1] ?? "")) return null;
  for (let close = text.indexOf(mark, at + length + 1); close !== -1; close = text.indexOf(mark, close + 1)) {
    const after = text[close + length] ?? "";
    if (/\s/.test(text[close - 1]) || (length === 1 && (after === mark || text[close - 1] === mark))) continue;
    if (mark[0] === "_" && /\w/.test(after)) continue;
    return { node: make(tag, {}, inline(text.slice(at + length, close), depth + 1)), end: close + length };
  }
  return null;
}
