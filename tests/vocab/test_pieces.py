"""What tokens spell, for both kinds of tokenizer."""

from __future__ import annotations

import pytest

from potstill.models.conversation import end_of_turn, text_ids
from potstill.vocab.pieces import END, UNUSED, continuing_ids, pieces_of, readable
from tiny import build_phi3_tokenizer, build_tokenizer


@pytest.mark.parametrize("build", [build_tokenizer, build_phi3_tokenizer])
def test_every_byte_is_spelled_and_every_id_has_a_piece(build: object) -> None:
    tokenizer = build()
    pieces = pieces_of(tokenizer, 700)
    assert len(pieces) == 700
    assert pieces[len(tokenizer) :] == [UNUSED] * (700 - len(tokenizer))
    assert {bytes([byte]) for byte in range(256)} <= set(pieces)
    assert pieces[tokenizer.convert_tokens_to_ids("<|endoftext|>")] == "<|endoftext|>"


def test_blanks_and_byte_tokens_of_sentencepiece() -> None:
    tokenizer = build_phi3_tokenizer()
    pieces = pieces_of(tokenizer)
    for token, spelled in (("▁", b" "), ("<0xE4>", b"\xe4"), ("<unk>", "<unk>")):
        assert pieces[tokenizer.convert_tokens_to_ids(token)] == spelled


def test_the_end_of_a_turn_is_what_the_template_writes() -> None:
    tokenizer = build_phi3_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"  # Phi-3's own ends a text, not a turn
    assert tokenizer.decode(end_of_turn(tokenizer)) == "<|end|>"
    assert pieces_of(tokenizer)[end_of_turn(tokenizer)] == END
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    assert end_of_turn(tokenizer) == tokenizer.eos_token_id


@pytest.mark.parametrize("text", ["hello", " hello", "  x", "今天", "\n", ""])
def test_text_that_goes_on_has_no_space_put_before_it(text: str) -> None:
    phi3, qwen = build_phi3_tokenizer(), build_tokenizer()
    pieces = pieces_of(phi3)
    assert b"".join(pieces[index] for index in continuing_ids(phi3, text)) == text.encode()
    assert b"".join(pieces[index] for index in text_ids(phi3, text)) in (f" {text}".encode(), b"")
    assert continuing_ids(qwen, text) == text_ids(qwen, text)


def test_torn_characters_are_readable() -> None:
    assert [readable(piece) for piece in (b"ab", "微".encode()[:2], END)] == ["ab", "<0xE5><0xBE>", END]
