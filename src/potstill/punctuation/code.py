"""Which characters of a Markdown text are code, decided as they come, without looking ahead.

In:  one character after the other.
Out: whether it is code; whether the line, as far as it has come, looks like code that nothing fences in.
Does not know: punctuation.

After CommonMark, with three readings of what models write: an inline span left open ends with its paragraph; an
indented paragraph that begins in Chinese is a paragraph; lines below one that looks like code are code up to an empty
line.
"""

from __future__ import annotations

import re

KEPT_OF_LINE = 256
"""Characters of a line that are remembered: what it looks like is decided by its beginning."""
INDENT = 4

_HAN = re.compile("[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_PREFIX = re.compile(r"(?:[ \t]|>|[-*+][ \t]|\d{1,9}[.)][ \t])*")
_TILDES = re.compile(_PREFIX.pattern + r"(?P<fence>~{3,})")
_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+")
_SPAN = re.compile("`[^`]*`?")
_LOOKS_LIKE_CODE = re.compile(
    r"""[{}]|=>|::|&&|\|\||</|\$\(|\w\(["'\[{]           # what prose has no use for
    |^\s*[a-z_][\w.]*\((?=[^\s)])                        # a call
    |^\s*[\w.\[\]"']+(?:\s*:\s*\w+)?\s*[-+*/%|&:]?=      # an assignment
    |^\s*(?://|/\*|\#!|\#include|\$\s|>>>\s)             # a comment, a prompt
    |^\s*["'][\w-]+["']\s*:                              # a line of JSON
    |^\s*(?:return|print|echo|raise|import|from|def|class|case|assert|yield|export|alias)\b[^,.]*["'(=]
    |^\s*(?:SELECT|INSERT|UPDATE|DELETE|CREATE)\s""",
    re.VERBOSE,
)


def is_han(character: str) -> bool:
    """Whether this is a Chinese character."""
    return bool(_HAN.match(character))


class CodeReader:
    """Says of each character whether it is code, before it is taken."""

    def __init__(self) -> None:
        self.line = ""
        """What has been taken of this line, its first `KEPT_OF_LINE` characters."""
        self.chinese = False
        """Whether this line has had a Chinese character."""
        self.blank_before = True
        """Whether the line before was empty, or there was none."""
        self._fence = ""
        """The run of backticks or tildes that opened a block; empty outside one."""
        self._info = False
        """In the line of an opening fence, which is an inline span after all if a backtick comes."""
        self._ticks = 0
        """Length of the run that opened an inline span; 0 outside one."""
        self._run = 0
        """Backticks that have come in a row."""
        self._escaped = False
        self._list = 0
        """Column of the text of the open list item."""
        self._kind = ""
        """What this line is known to be: "prose", "code" (looks like it), "indented", "tildes"."""
        self._before = ""
        """What the line before was."""

    def holds(self, character: str) -> bool:
        """Whether `character`, coming next, is code. Backticks may be either: they are no marks."""
        if self._run and character != "`":
            self._end_run()
        if self._fence or self._ticks:
            return True
        if not self._kind and not character.isspace():
            self._begin_line(character)
        return self._kind not in ("", "prose")

    def looks_like_code(self, character: str = "") -> bool:
        """Whether the line, as far as it has come and with `character` next, is code that nothing fences in."""
        return not self.chinese and bool(_LOOKS_LIKE_CODE.search(_SPAN.sub("", self.line + character)))

    def take(self, character: str) -> None:
        """Go on to the next character."""
        if character == "\n":
            self._end_line()
            return
        if not self.chinese and is_han(character):
            if self._kind == "prose" and self.looks_like_code():
                self._kind = "code"
            self.chinese = True
        if character == "`" and (self._ticks or not self._escaped) and (self._info or not self._fence):
            self._run += 1
        self._escaped = character == "\\" and not self._escaped
        if len(self.line) < KEPT_OF_LINE:
            self.line += character
            if character == "~" and self._kind == "prose" and _TILDES.fullmatch(self.line):
                self._kind = "tildes"

    def _end_run(self) -> None:
        run, self._run = self._run, 0
        if self._info:
            opened = len(self._fence)
            self._fence, self._info = "", False
            self._ticks = 0 if run == opened else opened
        elif run >= 3 and _PREFIX.fullmatch(self.line[:-run]):  # a block begins, even in an inline span left open
            self._fence, self._info, self._ticks = "`" * run, True, 0
        elif self._ticks:
            self._ticks = 0 if run == self._ticks else self._ticks
        else:
            self._ticks = run

    def _begin_line(self, first: str) -> None:
        """At the first character that is no space: what kind of line will this be?"""
        columns = len(self.line.expandtabs(INDENT))
        deep = not self.line.strip() and columns >= self._list + INDENT
        if deep and (self._before == "indented" or (self.blank_before and not is_han(first))):
            self._kind = "indented"
        elif self._before == "code" and not is_han(first) and first not in "-|`" and not first.isdigit():
            self._kind = "code"
        else:
            self._kind = "prose"
            if self.blank_before and columns < self._list:
                self._list = 0

    def _end_line(self) -> None:
        if self._run:
            self._end_run()
        bare = self.line.strip(" \t\r>")
        if self._fence:
            closes = not self._info and len(bare) >= len(self._fence) and set(bare) == {self._fence[0]}
            self._info, self._fence = False, "" if closes else self._fence
        elif not bare:
            self._ticks = 0
        elif self._kind == "tildes":
            fence = _TILDES.match(self.line)
            self._fence = fence["fence"] if fence else "~~~"
        elif self._kind == "prose" and self.looks_like_code():
            self._kind = "code"
        elif self._kind == "prose" and (item := _LIST_ITEM.match(self.line)):
            self._list = len(item[0].expandtabs(INDENT))
        if bare or self._before != "indented":
            self._before = self._kind
        self.blank_before = not bare
        self.line, self.chinese, self._kind, self._escaped = "", False, "", False
