"""Punctuation: what a typesetter would do, code as it is, the same wherever a stream is cut."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from potstill.punctuation import FullWidth, HalfWidth, normalise

SAME = ""
"""The text stays as it is."""
CASES = [
    # between and behind Chinese
    ("你好,世界", "你好，世界"),
    ("你好, 世界.", "你好，世界。"),
    ("今天天气很好,我们去散步吧!你去吗?", "今天天气很好，我们去散步吧！你去吗？"),
    ("步骤如下:先洗菜;再切菜;最后下锅.", "步骤如下：先洗菜；再切菜；最后下锅。"),
    ("真的吗?!", "真的吗？！"),
    ("《红楼梦》,作者曹雪芹.", "《红楼梦》，作者曹雪芹。"),
    ("第一行,\n第二行.\n", "第一行，\n第二行。\n"),
    ("第一行, \r\n第二行.\r\n", "第一行， \r\n第二行。\r\n"),
    ("你好,  \n世界", "你好，  \n世界"),  # two spaces: Markdown's line break
    ("已经，是。全角！的？了；吗：", SAME),
    ("", SAME),
    # ellipses
    ("等等...", "等等……"),
    ("他想了想......还是走了.", "他想了想……还是走了。"),
    ("目录....12", SAME),
    ("第一章...12", SAME),
    ("他说..", SAME),
    # Latin words inside Chinese
    ("我用 Python, 他用 Java.", "我用 Python，他用 Java。"),
    ("我喜欢 Python.\n它很简单.", "我喜欢 Python。\n它很简单。"),
    ("你会用 Excel 吗?会一点 Word, 不会 Excel.", "你会用 Excel 吗？会一点 Word，不会 Excel。"),
    ("你会用 Python?", "你会用 Python？"),
    ("支持 Windows, macOS 和 Linux.", "支持 Windows, macOS 和 Linux。"),
    ("我用 Python. 它很好", "我用 Python。它很好"),
    ("苹果公司 Apple Inc. 的产品", SAME),
    ("作者是 J. K. 罗琳", SAME),
    ("你好, Hello", "你好，Hello"),
    # English passages
    ("Hello, world! How are you?", SAME),
    ("Hello, 你好", SAME),
    ("这句话的意思是 How are you today?", SAME),
    ("他说 I love machine learning. 然后走了", SAME),
    ("意思是 I love you, 很常用.", "意思是 I love you，很常用。"),
    ("It's a test; isn't it? Yes: (really).", SAME),
    # numbers, times, versions
    ("圆周率约为 3.14,光速约为 299,792 千米每秒.", "圆周率约为 3.14，光速约为 299,792 千米每秒。"),
    ("会议在12:30开始,13:45结束.", "会议在12:30开始，13:45结束。"),
    ("时间:12:30", "时间：12:30"),
    ("比分是3:2,赢了!", "比分是3:2，赢了！"),
    ("共 1,000 元.", "共 1,000 元。"),
    ("答案是 42.", "答案是 42。"),
    ("升级到 v2.10.3 以后,问题没有了.", "升级到 v2.10.3 以后，问题没有了。"),
    ("依次是 1, 2, 3.", "依次是 1, 2, 3。"),
    ("利率 3.5%,很低.", "利率 3.5%，很低。"),
    # addresses, e-mail, file names
    ("请访问https://example.com/a?b=1,c=2查看.", "请访问https://example.com/a?b=1,c=2查看。"),
    ("网址:https://example.com.", "网址：https://example.com。"),
    ("网址: https://example.com, 欢迎访问.", "网址： https://example.com，欢迎访问。"),
    ("维基 https://zh.wikipedia.org/wiki/水_(化学)?a=1 有介绍,可以看.",
     "维基 https://zh.wikipedia.org/wiki/水_(化学)?a=1 有介绍，可以看。"),
    ("去 www.example.com/a.html,然后下载.", "去 www.example.com/a.html，然后下载。"),
    ("发到 li.lei@example.com,谢谢!", "发到 li.lei@example.com，谢谢！"),
    ("打开报告.docx,再打开 main.py.", "打开报告.docx，再打开 main.py。"),
    ("保存为图片(1).png,再上传.", "保存为图片(1).png，再上传。"),
    ("路径是 C:\\用户\\a.txt,不要改.", "路径是 C:\\用户\\a.txt，不要改。"),
    ("在目录.../src里", SAME),
    # brackets
    ("猫(一种动物)很可爱.", "猫（一种动物）很可爱。"),
    ("人工智能(AI)发展很快.", "人工智能（AI）发展很快。"),
    ("Python(一种语言,很流行)很好.", "Python（一种语言，很流行）很好。"),
    ("他来了 (昨天) 又走了.", "他来了（昨天）又走了。"),
    ("(注:仅供参考)", "（注：仅供参考）"),
    ("步骤:(1)打开;(2)关闭.", "步骤：（1）打开；（2）关闭。"),
    ("调用 print() 函数,就行.", "调用 print() 函数，就行。"),
    ('用 print("你好, 世界")输出,就行.', '用 print("你好, 世界")输出，就行。'),
    ("函数 f(x, y) 的值", SAME),
    ("太好了:)", SAME),
    ("你好()", SAME),
    ("（全角开头,半角结尾)", "（全角开头，半角结尾）"),
    # quotes
    ('他说:"你好!"', "他说：“你好！”"),
    ('"你好,"他说.', "“你好，”他说。"),
    ('他说"Hello, world!"然后走了.', "他说“Hello, world!”然后走了。"),
    ("他说:\"他喊了'救命'.\"", "他说：“他喊了‘救命’。”"),
    ('这是 5" 的屏幕,很小.', '这是 5" 的屏幕，很小。'),
    ("我喜欢 Tom's Diner,你呢?", "我喜欢 Tom's Diner，你呢？"),
    ('He said "hello" and left.', SAME),
    ('<a href="a.html">链接,在这里</a>', '<a href="a.html">链接，在这里</a>'),
    ('<a title="链接, 一">在</a>', SAME),
    ("他住在美国 U.S.", SAME),
    ("等等 etc.", SAME),
    ('见<img alt="图, 一">,很好.', '见<img alt="图, 一">，很好。'),
    ("第一<br>第二,第三", "第一<br>第二，第三"),
    # code
    ("使用 `print(\"你好, 世界\")`, 就能输出.", "使用 `print(\"你好, 世界\")`，就能输出。"),
    ("运行 `a, b = b, a`.", "运行 `a, b = b, a`。"),
    ("``有 ` 的代码, 好.``外面,好.", "``有 ` 的代码, 好.``外面，好。"),
    ("```python\nprint('你好, 世界.')  # 输出, 换行\n```\n完成,谢谢.",
     "```python\nprint('你好, 世界.')  # 输出, 换行\n```\n完成，谢谢。"),
    ("~~~\n注释, 一.\n```\n还在, 里面.\n~~~\n外面,了.", "~~~\n注释, 一.\n```\n还在, 里面.\n~~~\n外面，了。"),
    ("````\n```\n里面, 好.\n```\n````\n外面,好.", "````\n```\n里面, 好.\n```\n````\n外面，好。"),
    ("```没有换行, 的代码.```外面,好.", "```没有换行, 的代码.```外面，好。"),
    ("1. 步骤,一:\n   ```\n   代码, 一.\n   ```\n2. 步骤,二",
     "1. 步骤，一：\n   ```\n   代码, 一.\n   ```\n2. 步骤，二"),
    ("没有结束:\n```\n代码, 一.", "没有结束：\n```\n代码, 一."),
    ("例子:\n\n    x = 1  # 注释, 一.\n\n    # 又一, 行.\n\n说明,完.",
     "例子：\n\n    x = 1  # 注释, 一.\n\n    # 又一, 行.\n\n说明，完。"),
    ("    中文段落,缩进四格.", "    中文段落，缩进四格。"),
    ("name = '张三, 李四'  # 名字, 两个.", SAME),
    ("def f(x):\n    # 注释, 一.\n    return '好, 的.'\n\n说明,完.",
     "def f(x):\n    # 注释, 一.\n    return '好, 的.'\n\n说明，完。"),
    ('{\n  "名称": "张三, 李四."\n}\n', SAME),
    ('print("你好, 世界.")', SAME),
    ("# 一个没写完的`反引号, 之后.\n同一段, 里.\n\n下一段,里.",
     "# 一个没写完的`反引号, 之后.\n同一段, 里.\n\n下一段，里。"),
    # Markdown
    ("# 标题: 内容", "# 标题：内容"),
    ("1. 第一,好.\n2. 第二,好.", "1. 第一，好。\n2. 第二，好。"),
    ("- 项目: 说明.\n- **重点**: 说明,很多.", "- 项目：说明。\n- **重点**：说明，很多。"),
    ("**你好**,世界", "**你好**，世界"),
    ("一. 概述\n二.方法", "一、概述\n二、方法"),
    ("| 名称, 数量 | 价格: 元 |\n|:---|---:|\n| 苹果 | 3.5 |",
     "| 名称，数量 | 价格：元 |\n|:---|---:|\n| 苹果 | 3.5 |"),
    ("看[文档](https://a.cn/b,c.html),很好.", "看[文档](https://a.cn/b,c.html)，很好。"),
    ("看图![图片](a.png)", SAME),
    ("> 引用,一句.", "> 引用，一句。"),
    ("转义\\(不动\\)和\\!", SAME),
    ("甲!=乙", SAME),
    ("&nbsp;中文&lt;中文", SAME),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES, ids=[str(number) for number in range(len(CASES))])
def test_a_careful_typesetter_would_agree(text: str, expected: str) -> None:
    assert normalise(text) == (text if expected is SAME else expected)


def test_there_are_enough_cases() -> None:
    assert len(dict(CASES)) == len(CASES) >= 60


PIECES = [text for text, _ in CASES if text] + [
    *("你", "好", "中文", "word", "Python", "I", "7", "12", " ", "  ", "\n", "\n\n", "\r\n", "\t", "    ", "\\"),
    *(
        ",",
        ".",
        ";",
        ":",
        "?",
        "!",
        "(",
        ")",
        '"',
        "'",
        "...",
        "`",
        "``",
        "```",
        "~~~",
        "```py\n",
        "\n```\n",
        "\n~~~\n",
    ),
    *("*", "**", "_", "#", "# ", "- ", "1. ", "> ", "|", "[", "]", "<", ">", "=", "{", "}", "/", "https://", "www."),
    *("，", "。", "（", "）", "“", "”", "……", "、", "《", "》", "\u3000", "@", "%", "&", "-", "—", "é", "あ", "😀"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=24).map("".join) | st.text(
    alphabet="你好世界aB1 \n\t,.;:?!()\"'`~*_#->[]{}=/\\，。（）“”…、", max_size=60
)


def streamed(filter_type: type[FullWidth] | type[HalfWidth], text: str, cuts: list[int]) -> str:
    stream = filter_type()
    ends = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return "".join(stream.feed(text[start:end]) for start, end in pairwise(ends)) + stream.close()


@pytest.mark.parametrize("filter_type", [FullWidth, HalfWidth])
@settings(max_examples=300, deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 500), max_size=8))
def test_a_stream_cut_anywhere_gives_the_same_text(
    filter_type: type[FullWidth] | type[HalfWidth], text: str, cuts: list[int]
) -> None:
    assert streamed(filter_type, text, cuts) == streamed(filter_type, text, [])


@pytest.mark.parametrize("filter_type", [FullWidth, HalfWidth])
@settings(max_examples=600, deadline=None)
@given(text=TEXTS)
def test_twice_is_once(filter_type: type[FullWidth] | type[HalfWidth], text: str) -> None:
    once = streamed(filter_type, text, [])

    assert streamed(filter_type, once, []) == once


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_only_marks_and_spaces_change(text: str) -> None:
    def bare(one: str) -> str:
        return re.sub(r"[\s,.;:?!()\"'，。；：？！（）“”‘’…、]", "", one)

    assert bare(normalise(text)) == bare(text)
    assert normalise(text).count("\n") == text.count("\n")


@pytest.mark.parametrize("filter_type", [FullWidth, HalfWidth])
@settings(max_examples=300, deadline=None)
@given(before=TEXTS, code=TEXTS, after=TEXTS, fence=st.sampled_from(["```", "~~~~"]))
@example(before="你好,", code="中文, 中文.", after="好,的", fence="```")
def test_code_blocks_come_out_as_they_were(
    filter_type: type[FullWidth] | type[HalfWidth], before: str, code: str, after: str, fence: str
) -> None:
    code = code.replace(fence[:3], "")
    block = f"{fence}text\n{code}\n{fence}\n"
    before = before.replace("`", "").replace("~", "")

    out = streamed(filter_type, f"{before}\n\n{block}{after}", [])

    assert block in out


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_little_is_held_back(text: str) -> None:
    for filter_type in (FullWidth, HalfWidth):
        stream = filter_type()
        for character in text:
            stream.feed(character)
            assert len(stream._held) <= 10


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(max_codepoint=0x2FFF, exclude_characters="“”‘’…—～"), max_size=80))
def test_text_without_chinese_is_left_alone(text: str) -> None:
    assert normalise(text) == text


def test_a_closed_filter_is_as_new() -> None:
    stream = FullWidth()
    assert stream.feed("```\n中文,") + stream.close() == "```\n中文,"
    assert stream.feed("中文,") + stream.close() == "中文，"


HALF_CASES = [
    ("你好，世界。", "你好, 世界."),
    ("他说：“你好！”", '他说: "你好!"'),
    ("猫（一种动物）很可爱。", "猫 (一种动物) 很可爱."),
    ("苹果、梨，都好……真的——好！\n", "苹果, 梨, 都好...真的--好!\n"),
    ("《红楼梦》，作者", "《红楼梦》, 作者"),
    ("真的？！", "真的?!"),
    ("\u3000\u3000段落，开头。", "    段落, 开头."),
    ("用 `打印（“好”）`，就行。", "用 `打印（“好”）`, 就行."),
    ("```\n# 注释，一。\n```\n外面，好。", "```\n# 注释，一。\n```\n外面, 好."),
    ("Hello, world.", "Hello, world."),
]


@pytest.mark.parametrize(("text", "expected"), HALF_CASES)
def test_half_width_for_terminals(text: str, expected: str) -> None:
    assert streamed(HalfWidth, text, []) == expected


@pytest.mark.parametrize("text", [text for text, _ in HALF_CASES[:4] if "、" not in text])
def test_half_width_and_back(text: str) -> None:
    assert normalise(streamed(HalfWidth, text, [])) == text
