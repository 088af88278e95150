"""What a text is written in: code, and the scripts of the world as far as we tell them apart.

In:  a text.
Out: regular expressions that find its parts.
Does not know: how much of a script makes a language, nor what is asked of it.
"""

from __future__ import annotations

import re

CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
"""Fenced blocks, the last one perhaps unfinished, and spans between back-quotes."""
HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""Chinese characters; Japanese has them as well."""
FOREIGN = re.compile("[\u0400-\u1cff\u3041-\u3096\u30a1-\u30fa\uac00-\ud7a3]")
"""Cyrillic, Hebrew, Arabic, the scripts of India and South-East Asia …; kana; hangul. Not Greek: formulas use it."""
LATIN_WORD = re.compile("[A-Za-z\u00c0-\u024f]['’A-Za-z\u00c0-\u024f]*")
"""Words, not letters: one weighs as much as a Chinese character."""
