/* Two languages: the browser's own first, another by the switch, remembered in this browser.

   In:  keys in the markup (data-word, data-word-label, data-word-placeholder) and in the other modules.
   Out: words in the language in force; listeners are told when it changes.
   Does not know: what the words are for. */

import { recall, remember } from "./memory.js";

const WORDS = {
  en: {
    "page.chat": "Chat",
    "page.compare": "Compare",
    "page.skip": "Skip to the question",
    "page.pages": "Pages",
    "model": "Model",
    "chat.conversations": "Conversations",
    "chat.new": "New conversation",
    "chat.menu": "Conversations",
    "chat.close": "Close the list",
    "chat.empty": "Nothing here yet.",
    "chat.kept": "Kept in this browser alone.",
    "chat.log": "Conversation",
    "chat.title": "Title of this conversation",
    "chat.untitled": "New conversation",
    "chat.welcome": "A small model,\non this machine.",
    "chat.lede": "What you write goes to this server and nowhere else. Small models err: check what matters.",
    "chat.question": "Your question",
    "chat.placeholder": "Ask something",
    "chat.send": "Send",
    "chat.stop": "Stop",
    "chat.keys": "Enter sends · Shift+Enter starts a line · Esc stops",
    "chat.you": "You",
    "chat.copy": "Copy",
    "chat.copied": "Copied",
    "chat.copy-failed": "Not allowed here",
    "chat.copy-code": "Copy code",
    "chat.again": "Answer again",
    "chat.save-markdown": "Save as Markdown",
    "chat.save-json": "Save as JSON",
    "chat.delete": "Delete",
    "chat.delete-all": "Delete all",
    "chat.delete-title": "Delete this conversation?",
    "chat.delete-text": "It exists in this browser alone and cannot be brought back.",
    "chat.delete-all-title": "Delete all conversations?",
    "chat.delete-all-text": "They exist in this browser alone and cannot be brought back.",
    "chat.keep": "Keep",
    "chat.dropped": "The oldest turns no longer fit and were left out of this question.",
    "chat.not-kept": "This browser keeps nothing for this page: conversations are lost when it is closed.",
    "answer.thinking": "Reading the question",
    "answer.stopped": "stopped",
    "answer.cut": "cut off",
    "answer.limit": "longest answer reached",
    "answer.first": "first token {seconds} s",
    "answer.speed": "{speed} tokens/s",
    "answer.done": "Answer finished.",
    "answer.ended": "Answer stopped.",
    "error.busy": "The server is busy. Trying again in {seconds} s.",
    "error.still-busy": "The server is still busy. Try again in a while.",
    "error.unreachable": "The server does not answer. Is potstill serve still running?",
    "error.broken": "The line broke before the answer was finished.",
    "error.too-long": "This is too long for the model, even alone. Shorten it.",
    "error.key": "This server asks for its key.",
    "error.other": "The server could not answer: {message}",
    "error.retry": "Try again",
    "key.title": "Key of this server",
    "key.text": "The person who runs this server has it. It is kept in this browser.",
    "key.label": "Key",
    "key.use": "Use it",
    "cancel": "Cancel",
    "compare.title": "One question, two models",
    "compare.lede": "Both answer at the same time, on the same machine.",
    "compare.placeholder": "Ask both",
    "compare.send": "Ask both",
    "compare.first": "First model",
    "compare.second": "Second model",
    "compare.empty": "The answer appears here.",
    "rate.title": "Which one sounds like a person?",
    "rate.lede": "Two programs answer the same question. You don't know which is which, and their places change. Judge only how it reads.",
    "rate.turn": "Question {turn} of {total}",
    "rate.answer": "Answer {side}",
    "rate.scale": "Sounds like a person typing",
    "rate.low": "1 · not at all",
    "rate.high": "5 · entirely",
    "rate.better": "Which answer is better?",
    "rate.a": "A",
    "rate.b": "B",
    "rate.same": "Alike",
    "rate.next": "Next",
    "rate.last": "Finish",
    "rate.wait": "Both answers are being prepared.",
    "rate.read": "You can rate as soon as both answers are complete.",
    "rate.missing": "Give both a score and say which is better.",
    "rate.ready": "Both answers are complete.",
    "rate.empty": "(This answer is empty.)",
    "rate.thanks": "Thank you. That was all.",
    "rate.thanks-lede": "Your ratings are kept. You can close this page.",
    "rate.unknown": "This link does not work",
    "rate.unknown-lede": "It may have been replaced, or the questions have changed. Ask whoever sent it for a new one.",
    "rate.failed": "The answers could not be prepared.",
    "operate.page": "Blind rating",
    "operate.title": "Blind rating",
    "operate.lede": "Raters read two answers without knowing whose they are. Results go into the run's scorecard.",
    "operate.refused": "This page is for the person who runs the server: open it on the same machine, or give the key.",
    "operate.raters": "Raters",
    "operate.raters-lede": "Each link is for one person. It is shown once: only its fingerprint is kept.",
    "operate.name": "Name of the rater",
    "operate.make": "Make a link",
    "operate.copy": "Copy the link",
    "operate.link-for": "Link for {name}:",
    "operate.taken": "{name} has a link already. A new one ends the old one; the ratings stay.",
    "operate.renew": "New link",
    "operate.renew-for": "New link for {name}",
    "operate.no-raters": "Nobody has a link yet.",
    "operate.rater": "Rater",
    "operate.progress": "Progress",
    "operate.of": "{done} of {total}",
    "operate.results": "Results",
    "operate.results-lede": "Means so far, without intervals; potstill evaluate works those out.",
    "operate.model": "Model",
    "operate.ratings": "Ratings",
    "operate.mean": "Mean, 1–5",
    "operate.preferred": "Found better",
    "operate.alike": "Found alike: {count}",
    "operate.csv": "Save as CSV",
    "operate.refresh": "Refresh",
  },
  zh: {
    "page.chat": "对话",
    "page.compare": "对比",
    "page.skip": "跳到提问框",
    "page.pages": "页面",
    "model": "模型",
    "chat.conversations": "对话列表",
    "chat.new": "新对话",
    "chat.menu": "对话列表",
    "chat.close": "关闭列表",
    "chat.empty": "还没有对话。",
    "chat.kept": "只保存在这个浏览器里。",
    "chat.log": "对话内容",
    "chat.title": "对话标题",
    "chat.untitled": "新对话",
    "chat.welcome": "一个小模型，\n就在这台机器上。",
    "chat.lede": "您写的内容只发给这台服务器，不去别处。小模型会出错，重要的事请再核对。",
    "chat.question": "您的问题",
    "chat.placeholder": "问点什么",
    "chat.send": "发送",
    "chat.stop": "停止",
    "chat.keys": "Enter 发送 · Shift+Enter 换行 · Esc 停止",
    "chat.you": "您",
    "chat.copy": "复制",
    "chat.copied": "已复制",
    "chat.copy-failed": "此处不允许复制",
    "chat.copy-code": "复制代码",
    "chat.again": "重新回答",
    "chat.save-markdown": "保存为 Markdown",
    "chat.save-json": "保存为 JSON",
    "chat.delete": "删除",
    "chat.delete-all": "全部删除",
    "chat.delete-title": "删除这个对话？",
    "chat.delete-text": "它只存在于这个浏览器，删除后无法恢复。",
    "chat.delete-all-title": "删除所有对话？",
    "chat.delete-all-text": "它们只存在于这个浏览器，删除后无法恢复。",
    "chat.keep": "保留",
    "chat.dropped": "最早的几轮已放不下，这次提问没有带上。",
    "chat.not-kept": "浏览器没有为本页保存数据：关闭后对话会丢失。",
    "answer.thinking": "正在读题",
    "answer.stopped": "已停止",
    "answer.cut": "中断",
    "answer.limit": "已到最大长度",
    "answer.first": "首字 {seconds} 秒",
    "answer.speed": "{speed} 词元/秒",
    "answer.done": "回答完毕。",
    "answer.ended": "回答已停止。",
    "error.busy": "服务器正忙，{seconds} 秒后重试。",
    "error.still-busy": "服务器仍然很忙，请稍后再试。",
    "error.unreachable": "服务器没有回应。potstill serve 还在运行吗？",
    "error.broken": "回答还没写完，连接就断了。",
    "error.too-long": "这段文字单独也超出模型的长度，请缩短。",
    "error.key": "这台服务器需要密钥。",
    "error.other": "服务器无法回答：{message}",
    "error.retry": "重试",
    "key.title": "服务器密钥",
    "key.text": "密钥由运行服务器的人提供，只保存在这个浏览器里。",
    "key.label": "密钥",
    "key.use": "使用",
    "cancel": "取消",
    "compare.title": "一个问题，两个模型",
    "compare.lede": "两个模型在同一台机器上同时回答。",
    "compare.placeholder": "同时问两个模型",
    "compare.send": "一起问",
    "compare.first": "第一个模型",
    "compare.second": "第二个模型",
    "compare.empty": "回答会出现在这里。",
    "rate.title": "哪一个更像真人？",
    "rate.lede": "两个程序回答同一个问题。您不知道谁是谁，左右位置也会变。请只看读起来的感觉。",
    "rate.turn": "第 {turn} 题，共 {total} 题",
    "rate.answer": "回答 {side}",
    "rate.scale": "像真人在打字吗",
    "rate.low": "1 · 完全不像",
    "rate.high": "5 · 完全像",
    "rate.better": "哪个回答更好？",
    "rate.a": "A",
    "rate.b": "B",
    "rate.same": "差不多",
    "rate.next": "下一题",
    "rate.last": "完成",
    "rate.wait": "正在准备两个回答。",
    "rate.read": "两个回答都显示完后即可评分。",
    "rate.missing": "请给两个回答打分，并选出更好的一个。",
    "rate.ready": "两个回答都已显示完。",
    "rate.empty": "（这个回答是空的。）",
    "rate.thanks": "谢谢，全部完成了。",
    "rate.thanks-lede": "您的评分已经保存，可以关闭本页。",
    "rate.unknown": "这个链接无法使用",
    "rate.unknown-lede": "它可能已被替换，或者题目已经更换。请向发链接的人要一个新的。",
    "rate.failed": "回答没能准备好。",
    "operate.page": "盲评",
    "operate.title": "盲评",
    "operate.lede": "评分者阅读两个回答，不知道出自谁手。结果会进入本次运行的成绩单。",
    "operate.refused": "本页只给运行服务器的人：请在同一台机器上打开，或输入密钥。",
    "operate.raters": "评分者",
    "operate.raters-lede": "一个链接只给一个人。链接只显示一次，服务器只保存它的指纹。",
    "operate.name": "评分者的名字",
    "operate.make": "生成链接",
    "operate.copy": "复制链接",
    "operate.link-for": "给 {name} 的链接：",
    "operate.taken": "{name} 已经有链接。新链接会让旧链接失效，评分保留。",
    "operate.renew": "新链接",
    "operate.renew-for": "给 {name} 新链接",
    "operate.no-raters": "还没有人拿到链接。",
    "operate.rater": "评分者",
    "operate.progress": "进度",
    "operate.of": "{done} / {total}",
    "operate.results": "结果",
    "operate.results-lede": "目前的平均分，没有区间；区间由 potstill evaluate 计算。",
    "operate.model": "模型",
    "operate.ratings": "评分数",
    "operate.mean": "平均分（1–5）",
    "operate.preferred": "被认为更好",
    "operate.alike": "差不多：{count}",
    "operate.csv": "保存为 CSV",
    "operate.refresh": "刷新",
  },
};

const EXAMPLES = {
  en: [
    "Why is the sky blue? Explain it to a child.",
    "Write a Python function that tells whether a word is a palindrome.",
    "How do I cook rice that doesn't stick?",
    "What should I pack for two rainy days in the hills?",
  ],
  zh: ["怎么煮出不粘锅的米饭？", "用 Python 写一个判断回文的函数。", "天空为什么是蓝色的？讲给小朋友听。", "去山里住两天，下雨，该带些什么？"],
};

const listeners = [];
let language = recall("language") || (/^zh\b/i.test(navigator.language || "") ? "zh" : "en");
if (!(language in WORDS)) language = "en";

/** A word or sentence; {names} in it are replaced by `values`. */
export function word(key, values = {}) {
  const text = WORDS[language][key];
  if (text === undefined) throw new Error(`no word for ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** Example questions in the language in force. */
export function examples() {
  return EXAMPLES[language];
}

/** Call `listener` now and whenever the language changes. */
export function onLanguage(listener) {
  listeners.push(listener);
  listener();
}

/** Put the words into the markup, inside `root`. */
export function applyWords(root = document) {
  for (const node of root.querySelectorAll("[data-word]")) node.textContent = word(node.dataset.word);
  for (const node of root.querySelectorAll("[data-word-label]")) node.setAttribute("aria-label", word(node.dataset.wordLabel));
  for (const node of root.querySelectorAll("[data-word-placeholder]")) node.placeholder = word(node.dataset.wordPlaceholder);
}

function follow() {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  applyWords();
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
  }
  for (const listener of listeners) listener();
}

/** Show the language in force and let the switch in the masthead change it. */
export function startWords() {
  for (const button of document.querySelectorAll("[data-language]")) {
    button.addEventListener("click", () => {
      language = button.dataset.language;
      remember("language", language);
      follow();
    });
  }
  follow();
}
