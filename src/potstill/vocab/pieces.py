"""What each token spells: bytes of text, or a unit that is no text.

In:  a fast tokenizer, byte-level or SentencePiece-like.
Out: for every id its bytes, or the name of a special token; ids of text that goes on after other text.
Does not know: other tokenizers, models, answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tokenizers.pre_tokenizers import ByteLevel

from potstill.models.conversation import end_of_turn, text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Piece = bytes | str
"""Bytes of text; or the name of a special token, which no text spells."""

END = "end of turn"
"""Name of the token that ends an answer, whatever a tokenizer calls it: ends of turn mean the same."""
UNUSED = ""
"""Name of an id that no token has."""
_BEFORE = "\0"
"""Text that no token holds together with other text."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def pieces_of(tokenizer: PreTrainedTokenizerBase, size: int | None = None) -> list[Piece]:
    """The piece of every id.

    Args:
        size: ids the model has, where that is more than its tokenizer has tokens.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    spelled = _spell_byte_level if "ByteLevel" in set(_types(described["decoder"])) else _spell_sentencepiece
    tokens: dict[str, int] = tokenizer.get_vocab()
    pieces: list[Piece] = [UNUSED] * max(size or 0, 1 + max(tokens.values()))
    for token, index in tokens.items():
        pieces[index] = spelled(token)
    for added in described["added_tokens"]:
        pieces[added["id"]] = added["content"] if added["special"] else added["content"].encode()
    if (end := end_of_turn(tokenizer)) is not None:
        pieces[end] = END
    return pieces


def continuing_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of text that goes on after other text: without the space that SentencePiece puts before a text of its own."""
    before = text_ids(tokenizer, _BEFORE)
    if not any(token.startswith("▁") for token in tokenizer.convert_ids_to_tokens(before)):
        return text_ids(tokenizer, text)
    both = text_ids(tokenizer, _BEFORE + text)
    return both[len(before) :] if both[: len(before)] == before else text_ids(tokenizer, text)


def readable(piece: Piece) -> str:
    """A piece for people: text as it is, torn characters as their bytes in hexadecimal."""
    if isinstance(piece, str):
        return piece
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in piece)


def _types(decoder: Any) -> Iterator[str]:
    if decoder:
        yield decoder["type"]
        for inner in decoder.get("decoders", ()):
            yield from _types(inner)


def _spell_sentencepiece(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()


def _spell_byte_level(token: str) -> bytes:
    return bytes(_BYTE_OF.get(character, ord("?")) for character in token)


def _byte_of_each_character() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes are themselves, the others take characters from 256 on, in order."""
    alphabet = set(ByteLevel.alphabet())
    themselves = {chr(byte): byte for byte in range(256) if chr(byte) in alphabet}
    others = sorted(alphabet - themselves.keys())
    return themselves | dict(zip(others, sorted(set(range(256)) - set(themselves.values())), strict=True))


_BYTE_OF = _byte_of_each_character()
