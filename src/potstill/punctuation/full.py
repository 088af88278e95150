"""Full-width marks for Chinese text.

In:  text in pieces.
Out: the same with the marks a Chinese typesetter would set; the rules stand in the package's description.
Does not know: what code is (`code.py` does), models, terminals.
"""

from __future__ import annotations

import re

from potstill.punctuation.code import KEPT_OF_LINE, is_han
from potstill.punctuation.stream import Stream

FULL = {",": "，", ";": "；", ":": "：", "?": "？", "!": "！"}
QUOTES = {'"': "“”", "'": "‘’"}
ENGLISH_WORDS = 3
"""So many Latin words without Chinese between them are an English passage."""
EITHER = tuple("“”‘’…—·")
"""Marks that both scripts use."""
SPACED = tuple("(\"'“‘《「【（*`")
"""Behind a full-width mark these need no space, like letters and digits."""
ABBREVIATIONS = frozenset(
    {"al", "approx", "cf", "co", "corp", "dept", "dr", "eg", "est", "etc", "fig", "ie", "inc", "jr", "ltd"}
    | {"mr", "mrs", "ms", "no", "prof", "sr", "vol", "vs"}
)
ADDRESSES = ("http://", "https://", "ftp://", "www.", "mailto:")
JOINING = tuple("'.@:/-_")
"""Inside a word, an address, a file name: what follows is no new word."""
FACES = tuple(")）:：/")
"""Behind a colon they make a face, a scope (::), an address."""
ELLIPSES = (3, 6)
LONGEST_ELLIPSIS = 7
"""Dots in a row that are held back, one more than any ellipsis has."""

_WIDE = re.compile("[\u3001-\u3004\u3006\u3008-\u303f\uff01-\uff65]")
_NUMERAL = re.compile("[一二三四五六七八九十百]{1,4}|[甲乙丙丁戊己庚辛壬癸]")
_DOTTED = re.compile(r"(?:^|[^A-Za-z])[A-Za-z](?:\.[A-Za-z])*$|[.\\-]$")
"""What a dot belongs to: single letters (J., U.S), dots, a hyphen."""
_COPY = re.compile(r"(?:\d{1,3}(?:\)(?:\.(?P<name>[A-Za-z0-9])?)?)?)?")
"""What follows the bracket of 图片(1).png, as far as it has come."""
_TAG = re.compile(r"[A-Za-z/!]")


def normalise(text: str) -> str:
    """A whole text with full-width marks where they belong."""
    stream = FullWidth()
    return stream.feed(text) + stream.close()


class FullWidth(Stream):
    """A stream of text in, the same stream with full-width marks out."""

    def _reset(self) -> None:
        super()._reset()
        self._brackets: list[bool] = []
        """For each open bracket whether it is full-width."""
        self._quotes: dict[str, bool | None] = dict.fromkeys(QUOTES)
        """For each kind of quote: None where it is closed, else whether it is full-width."""
        self._begin_line()

    def _begin_line(self) -> None:
        self._last = ""
        """The last character that went out, emphasis apart; empty at the start of a line."""
        self._token = ""
        """What has come since the last space or Chinese character."""
        self._words = 0
        """Latin words since the last Chinese character."""
        self._sentence = False
        """Whether the sentence has had a Chinese character."""
        self._until, self._depth = "", 0
        """What ends a stretch that is not touched, such as a call's bracket; how deep it is nested."""
        self._address = self._foreign_address = False
        """Inside an address; inside one that holds Chinese."""
        self._address_depth = 0
        self._changed = self._escaped = False
        """Whether the last mark was changed; whether a backslash was the last."""

    def _decide(self, held: str, final: bool) -> tuple[int, str] | None:
        character, rest = held[0], held[1:]
        if self._until or self._escaped:
            return 1, character
        if self._address:
            inside = self._in_address(character, rest, final)
            if inside is None:
                return None
            if inside:
                return 1, character
            self._address = False
        if character in "(\"'" and self._code.looks_like_code(character):
            return 1, character
        if character == " ":
            return self._space(rest, final)
        if character == "(":
            return self._bracket(rest, final)
        if character == ")":
            return 1, "）" if self._brackets and self._brackets[-1] else ")"
        if character in QUOTES:
            return self._quote(character, rest, final)
        if character == ".":
            return self._dots(held, final)
        if character == "<" and not rest and not final:
            return None
        return self._mark(character, rest, final) if character in FULL else (1, character)

    def _chinese(self, character: str) -> bool:
        if character in EITHER:
            return self._code.chinese
        return is_han(character) or bool(_WIDE.match(character))

    def _latin(self) -> bool:
        return self._last.isascii() and self._last.isalnum()

    def _mark(self, mark: str, rest: str, final: bool) -> tuple[int, str] | None:
        if self._chinese(self._last):
            unknown = (mark in ":!" and not rest) or (mark == ":" and rest in ("(", "（"))
            if unknown and not final:
                return None
            face = mark == ":" and (rest[:1] in FACES or (rest[:1] in tuple("(（") and not rest[1:2].strip()))
            syntax = mark == "!" and rest[:1] in tuple("[=")
            return 1, mark if face or syntax else FULL[mark]
        if not self._last or self._last.isspace():
            return 1, mark
        ahead = _ahead(rest, final)
        if ahead is None:
            return None
        ends = self._sentence and self._words < ENGLISH_WORDS and (ahead == "end" or (ahead and mark in "?!"))
        goes_on = ahead == "chinese" and mark in ",;:" and self._code.chinese
        entity = mark == ";" and self._token.startswith("&")
        return 1, FULL[mark] if (ends or goes_on) and not entity else mark

    def _dots(self, held: str, final: bool) -> tuple[int, str] | None:
        if not self._chinese(self._last):
            if held[1:2] == "." or not self._last or self._last.isspace():
                return 1, "."
            ahead = _ahead(held[1:], final)
            return ahead if ahead is None else (1, "。" if self._full_stop(ahead, held[1:2] == " ") else ".")
        run = len(held) - len(held.lstrip("."))
        if run == len(held) < LONGEST_ELLIPSIS and not final:
            return None
        behind = held[run : run + 1]
        if run == 1 and _NUMERAL.fullmatch(self._code.line.lstrip(" \t>#*")):
            return 1, "、"
        if run == 1 and not (behind.isascii() and behind.isalnum()) and behind not in tuple("/\\_-@"):
            return 1, "。"
        return run, "……" if run in ELLIPSES and not behind.isdigit() and behind not in tuple("/\\") else held[:run]

    def _full_stop(self, ahead: str, spaced: bool) -> bool:
        """Whether a dot behind a Latin word or a number ends a Chinese sentence."""
        if not ahead or not self._sentence or self._words >= ENGLISH_WORDS:
            return False
        if ahead == "chinese":
            return spaced and _is_word(self._token)
        return not (_DOTTED.search(self._token) or self._token.lower() in ABBREVIATIONS)

    def _quote(self, quote: str, rest: str, final: bool) -> tuple[int, str] | None:
        if not rest and not final:
            return None
        if quote == "'" and self._latin() and rest[:1].isascii() and rest[:1].isalpha():
            return 1, quote  # an apostrophe
        if self._quotes[quote] is not None:
            return 1, QUOTES[quote][1] if self._quotes[quote] else quote
        if not rest.strip() or rest[0].isspace():
            return 1, quote  # nothing that it could open
        if self._latin() and (quote == "'" or self._last.isdigit()):
            return 1, quote  # an apostrophe, an inch
        return 1, QUOTES[quote][0] if self._chinese(self._last) or is_han(rest[0]) else quote

    def _bracket(self, rest: str, final: bool) -> tuple[int, str] | None:
        copy = _COPY.match(rest)
        if copy and copy.end() == len(rest) and not copy["name"] and not final:
            return None
        if not rest.strip() or rest[0].isspace() or rest[0] == ")" or (copy and copy["name"]):
            return 1, "("
        return 1, "（" if self._chinese(self._last) or is_han(rest[0]) else "("

    def _space(self, rest: str, final: bool) -> tuple[int, str] | None:
        """The space goes behind a changed mark and before a changed bracket."""
        if not self._last or self._last.isspace() or (final and not rest):
            return 1, " "
        if not rest:
            return None
        if rest[0] == "(" and not self._changed:
            if self._code.looks_like_code(" ("):
                return 1, " "
            decided = self._bracket(rest[1:], final)
            return decided and (2, "（" if decided[1] == "（" else " (")
        if not self._changed or not (rest[0].isalnum() or rest[0] in SPACED):
            return 1, " "
        begun = rest.lower()
        if not final and any(address.startswith(begun) and address != begun for address in ADDRESSES):
            return None
        return 1, " " if begun.startswith(ADDRESSES) else ""

    def _in_address(self, character: str, rest: str, final: bool) -> bool | None:
        """Whether a character still belongs to an address; None where that isn't known yet."""
        if is_han(character):
            return self._foreign_address or not self._last.isalnum()
        if character.isspace() or character in "<>\"'`" or self._chinese(character):
            return False
        if character == ")":
            return self._address_depth > 0
        if character not in ",.;:?!":
            return True
        ahead = _ahead(rest, final)
        if ahead is None:
            return None
        return not (ahead == "end" or rest[:1] == " " or (ahead == "chinese" and not self._foreign_address))

    def _note(self, taken: str, text: str, code: bool) -> None:
        if taken == "\n":
            if self._code.blank_before:
                self._brackets = []
            for quote, full in self._quotes.items():
                self._quotes[quote] = None if self._code.blank_before else full or None
            self._begin_line()
            return
        untouched = code or bool(self._until) or self._escaped
        self._escaped = taken == "\\" and not untouched
        if self._until and not code:
            self._go_on(taken)
        if untouched:
            self._changed, self._last = False, taken
            self._token = "" if taken.isspace() else (self._token + taken)[-KEPT_OF_LINE:]
            return
        if not self._address:
            self._note_pair(taken[-1], text)
        self._changed = (text != taken and text not in ("", "“", "‘", "（")) or (self._changed and not text)
        for character in text:
            self._note_character(character)

    def _note_character(self, character: str) -> None:
        if character in "*~" and not self._address:
            return
        if self._chinese(character):
            self._words = 0
            self._sentence = character not in "。？！" and (self._sentence or is_han(character))
        elif character.isspace() and self._last in tuple(".?!"):
            self._sentence = False
        elif character.isascii() and character.isalpha() and not (self._latin() or self._last in JOINING):
            self._words += 1
        if self._address:
            self._foreign_address |= is_han(character)
            self._address_depth += {"(": 1, ")": -1}.get(character, 0)
        elif character.isspace() or self._chinese(character):
            self._token = ""
        else:
            self._token = (self._token + character)[-KEPT_OF_LINE:]
            self._address = self._token.lower().endswith(ADDRESSES) or self._token.endswith("://")
            self._foreign_address, self._address_depth = False, 0
        self._last = character

    def _note_pair(self, mark: str, text: str) -> None:
        """Brackets and quotes opened and closed, and the stretches that begin with one."""
        behind = self._held[:1]
        if mark == "(" and text == "(" and (self._latin() or self._last in tuple("]_`")):
            self._until, self._depth = ")", 1  # a call, a link: not behind a space
        elif mark in "(（":
            self._brackets = [*self._brackets, text[-1] == "（"]
        elif mark in ")）":
            self._brackets = self._brackets[:-1]
        elif mark == "<" and _TAG.match(behind) and not self._latin():
            self._until, self._depth = ">", 1
        elif mark == '"' and text == mark and self._last == "=":
            self._until, self._depth = '"', 1
        elif mark in QUOTES and text in QUOTES[mark]:
            self._quotes[mark] = True if text == QUOTES[mark][0] else None
        elif mark in QUOTES and self._quotes[mark] is False:
            self._quotes[mark] = None
        elif mark == '"' and not self._latin() and behind.strip():
            self._quotes[mark] = False

    def _go_on(self, character: str) -> None:
        """In a stretch that is not touched: is this its end?"""
        if character == self._until:
            self._depth -= 1
        elif character == "(" and self._until == ")":
            self._depth += 1
        if not self._depth:
            self._until = ""


def _ahead(rest: str, final: bool) -> str | None:
    """What follows a mark, perhaps behind a space: "chinese", "end" (of the line), or ""; None: not known yet."""
    behind = rest[1:] if rest[:1] == " " else rest
    if not behind:
        return "end" if final else None
    if behind[0] in "\r\n":
        return "end"
    return "chinese" if is_han(behind[0]) else ""


def _is_word(token: str) -> bool:
    """Two letters at least, and no abbreviation: a dot behind it is a full stop."""
    return len(token) > 1 and token.isascii() and token.isalpha() and token.lower() not in ABBREVIATIONS
