"""Punctuation of Chinese text: half-width marks become full-width ones (or the other way round), code stays.

In:  text in pieces, as a model writes it.
Out: the same text with other marks, as it comes.
Does not know: models, terminals, pages.

A filter takes one character at a time, so where a stream is cut can't matter. It holds back only what is undecided:
a mark and the one or two characters behind it, "(12).p" (a file name?), up to six dots, eight characters of an
address: never more than ten.

Never changed: fenced, indented and inline code; lines that look like code though nothing fences them in, and the lines
below such a one up to an empty line; calls such as `print(…)`; links, addresses, HTML tags, `key="…"`; what stands
behind a backslash; marks inside and behind English words, numbers (3.14 · 1,000), times (12:30), versions, file names.

Where a mark could be either, these rules decide, after GB/T 15834 and what a careful typesetter does:

- A mark right behind Chinese is Chinese, but not a dot before a letter or digit (报告.docx), a colon that makes a face
  or an address, a "!" before "[" or "=". Three or six dots behind Chinese are an ellipsis ("……").
- A mark behind a Latin word or number is Chinese where the line has begun in Chinese and Chinese goes on behind the
  mark (`,` `;` `:`), or where a Chinese sentence ends with it and ends a line. Three Latin words in a row are an
  English passage, whose own . ? ! stay. A dot behind an abbreviation or a single letter stays.
- Nothing before the first Chinese character of a line is changed, but quotes and brackets that open right before it.
- Brackets and quotes change in pairs, by where they open: right behind Chinese, or right before it.
- A Chinese numeral at the start of a line takes "、" (一.概述 becomes 一、概述).
- The space behind a mark that has become full-width goes, and so does the one before such a bracket; not at the end of
  a line, nor before an address (which some renderers only link behind a space).
"""

from potstill.punctuation.full import FullWidth, normalise
from potstill.punctuation.half import HalfWidth

__all__ = ["FullWidth", "HalfWidth", "normalise"]
