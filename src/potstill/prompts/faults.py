"""Why a text that a model wrote in a user's place is no prompt.

In:  the text, whether the model ended it, the language it should be in.
Out: the first fault that it has, or None.
Does not know: models, templates, other prompts (near duplicates are `sifting`'s).

Rules that anyone can read and rerun, after the filters of Magpie (Xu et al. 2024, arXiv:2406.08464) and Self-Instruct
(Wang et al. 2023, arXiv:2212.10560). In doubt a text falls: another is soon written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from potstill.scripts import CODE, FOREIGN, HAN, LATIN_WORD

Language = Literal["zh", "en"]
Fault = Literal["unended", "short", "template", "looping", "script", "answer", "statement", "impossible", "missing"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
"""
unended: no end of turn came within the longest prompt. short: too little to be understood. template: a chat template's
marks, made-up turns, or a system message. looping: says the same again and again. script: not in its language.
answer: what an assistant says. statement: asks for nothing. impossible: asks for what a text model can't do.
missing: speaks of a text, a program or a table that isn't there.
"""

LEAST_UNITS = {"zh": 5, "en": 3}
"""Characters of Chinese and other scripts, and Latin words, together."""
HAN_SHARE = 0.3
"""Chinese characters among characters and Latin words of a Chinese prompt: code may be asked about in it."""
FOREIGN_SHARE = 0.1
"""Of all letters: a name or a quoted word in another script has fewer."""


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE | re.MULTILINE)


_LOOP = re.compile(r"(\w.{2,60}?)\1{2,}|^(.{6,})$(?:.*^\2$){2}", re.MULTILINE | re.DOTALL)
_TEMPLATE = _any_of(
    r"<[|｜][\w▁ ]+[|｜]>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</?s>|<(?:bos|eos|unk|pad)>|\ufffd",
    r"^\W*(?:user|assistant|system|human|question|answer|用户|助手|系统|提问|回答|问|答)[ \t]*[:：]",
    r"^(?:user|assistant|system)[ \t]*$",
    r"\A\W*(?:[你您]是(?:一[个名位]|由)|you are an? |act as |your (?:task|job|role) is )",
)
_ANSWER = _any_of(
    r"\A\W*(?:当然|好的|没问题|可以的|抱歉|对不起[，,]我|很高兴|您好[！!，,](?!请问|我想)|以下是|根据您|感谢您|首先[，,])",
    r"\A\W*作为(?:一[个名位]|您的)?(?:AI|人工智能|助手|语言模型)",
    r"[有能以](?:什么)?.{0,6}帮[助到]?[您你]|希望(?:这|以上).{0,12}(?:帮助|有用)",
    r"如果[您你].{0,12}(?:问题|疑问|需要).{0,16}(?:告诉我|联系我|随时|提问)",
    r"\A\W*(?:sure|certainly|of course|absolutely|here (?:is|are)|here's|as an ai|thank you for)\b",
    r"\A\W*i(?:'m| am) (?:sorry|an ai|a language model)\b|\A(?:1[.、)]|[-*] )",
    r"how (?:can|may) i (?:help|assist)|(?:help|assist) you (?:with|today)",
    r"feel free to|i hope this helps|let me know if",
)
_ASKS: Mapping[Language, re.Pattern[str]] = {
    "zh": _any_of(
        "[?？吗呢]|怎|如何|什么|哪|为何|多少|多久|多大|几|谁|是否|能否|可不可以|有没有|是不是|区别",
        "请|帮我|帮忙|给我|替我|为我|教我|告诉我|跟我|陪我|提醒我|我想|我要|我需要|希望你|能不能",
        # Verbs ask where a clause begins with them, or right behind what they are about: 用Python写, 把…改成.
        r"(?:^|[，。！；：、,.!;:\s])(?:再|只|先|就|并|也)?(?:用\S{1,16}?|把.+?|将.+?|对.+?|为.+?|给.+?|根据.+?|按.+?|照.+?|从.+?|以.+?|在.+?)?"
        "(?:写|列|说|讲|推荐|介绍|解释|翻[译成]|总结|概括|归纳|提炼|改|润色|整理|补充|续写|扩写|生成|设计|制定|创[建作]|编|求|找|做|拟"
        "|实现|[计估]算|比较|分析|描述|举|起|想|来|陪|提[供出醒]|建议|命名|确定|定义|预测|分类|排|制作|选|输出|评估|识别|构[建造]|收集"
        "|展示|猜|回|合成|检查|转|使用|采用|搜索|检测|给出|撰写|处理|详细|记录|重写|添加|要给|对调|解析|统计|删|合并|打印|返回|查)",
    ),
    "en": _any_of(
        r"\?|\b(?:how|what|why|which|who|when|where|can|could|would|should)\b",
        r"\b(?:please|write|give|explain|tell|help|create|make|list|suggest|describe|translate|summari[sz]e|rewrite)\b",
        r"\b(?:show|find|compare|generate|design|draft|provide|convert|calculate|implement|discuss|recommend|teach)\b",
        r"\b(?:correct|edit|compose|plan|identify|outline|define|name|answer|analy[sz]e|develop|build|fix|turn)\b",
        r"\b(?:i need|i want|i'd like|looking for|trying to|sort|count|classify|complete|invent|imagine)\b",
    ),
}
_IMPOSSIBLE = _any_of(
    "[这那上下附配][面边]?(?:[一几]?[张幅个段]|的)?(?:图片|图像|照片|截图|视频|音频|录音|附件|链接|网址)|如图所?示?|看图",
    "画(?:出一|一|个|张|幅)|(?:发|传|给我)一?[张个段](?:图|照片|视频|语音)|播放|朗读|(?:打开|访问).{0,8}(?:网页|网站|链接)",
    "设(?:置|个)?.{0,4}闹钟|提醒我|现在几点|最新的?(?:新闻|消息|股价|汇率)",
    "(?:今天|明天|现在|当前).{0,6}(?:天气|新闻|日期|几号|星期几|股价|汇率|气温)(?:怎|如何|是|[?？]|$)",
    "帮我(?:预订|订[一张个]|下单|打个?电话|发送|搜索|上网)",
    r"\b(?:this|above|attached|following|my) (?:image|picture|photo|screenshot|video|audio|recording)\b",
    r"\b(?:draw|paint|sketch) (?:me )?an? |\b(?:play|open|visit) (?:the|this|a) (?:song|video|music|link|web|url)",
    r"\bset an? (?:alarm|reminder|timer)\b|\bremind me to\b|\bwhat time is it\b",
    r"\b(?:today's|current|latest) (?:weather|news|stock)|\bweather (?:like )?(?:today|tomorrow|now)\b",
    r"\b(?:call|text|book|order) (?:me|him|her|a (?:taxi|flight|hotel|table))\b",
)
_SPEAKS_OF = _any_of(
    r"(?:下面|以下|下列|上面|上述|如下)(?:这|所示|给出|提供)?的?[一几两这]?[段篇个份张条些句封]?\w{0,6}?"
    "(?:文字|文本|文章|句子|段落|内容|代码|程序|函数|表格|数据|邮件|信息|材料|对话|话|表|语句)",
    r"这[段篇份封句]\w{0,4}?(?:文字|文本|文章|话|代码|程序|邮件|报告|内容)",
    r"\bthe following\b|\b(?:text|code|table|paragraph|passage|sentences?) (?:above|below)\b",
    r"\bthis (?:text|code|paragraph|passage|sentence|article|e-?mail|table|snippet|function|query)\b",
)
_MATERIAL = re.compile(r"[:：\n]\s*\S.{3}|[“\"「][^”\"」]{4}|```", re.DOTALL)
"""What may be the text that is spoken of: behind a colon, in a line of its own, in quotes, fenced in."""


def first_fault(text: str, ended: bool, language: Language) -> Fault | None:
    """The first of `FAULTS` that a text has, in their order; None for a prompt that can be asked.

    Args:
        text: normalised.
        ended: the model ended its turn itself.
        language: what it was asked to write in.
    """
    prose = CODE.sub("\n", text)
    checks: Mapping[Fault, Callable[[], bool]] = {
        "unended": lambda: not ended,
        "short": lambda: len(_units(text)) < LEAST_UNITS[language],
        "template": lambda: _TEMPLATE.search(text) is not None,
        "looping": lambda: _LOOP.search(text) is not None,
        "script": lambda: _in_another_script(prose, language),
        "answer": lambda: _ANSWER.search(prose) is not None,
        "statement": lambda: _ASKS[language].search(prose) is None,
        "impossible": lambda: _IMPOSSIBLE.search(prose) is not None,
        "missing": lambda: _speaks_of_what_is_missing(text),
    }
    return next((fault for fault in FAULTS if checks[fault]()), None)


def _units(text: str) -> list[str]:
    return HAN.findall(text) + FOREIGN.findall(text) + LATIN_WORD.findall(text)


def _in_another_script(prose: str, language: Language) -> bool:
    han, words = len(HAN.findall(prose)), len(LATIN_WORD.findall(prose))
    foreign = len(FOREIGN.findall(prose))
    if language == "zh":
        return han < HAN_SHARE * (han + words) or not han or foreign > FOREIGN_SHARE * (han + foreign)
    letters = sum(map(str.isalpha, prose))
    return not words or han + foreign > FOREIGN_SHARE * letters


def _speaks_of_what_is_missing(text: str) -> bool:
    return text.endswith((":", "：")) or (_SPEAKS_OF.search(text) is not None and _MATERIAL.search(text) is None)
