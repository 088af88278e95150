"""A Transformers tokenizer as the header of a GGUF tells it.

In:  a folder with tokenizer.json (byte-level BPE, or SentencePiece's with byte fallback) and configurations.
Out: tokens in the order of their ids, their types, merges or scores, special ids, the chat template.
Does not know: weights, tensors, the file they go into.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from potstill.problem import Problem

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DIGITS = r"\p{N}"
"""What the step `Digits(individual_digits=True)` does: every numeral of Unicode stands alone, ² and Ⅷ too."""
SPLITS = {
    _LETTERS + r"\p{N}" + _REST: "qwen2",
    _LETTERS + r"\p{N}{1,3}" + _REST: "llama-bpe",
    DIGITS: "smollm",
    None: "gpt-2",
}
"""Regular expression a tokenizer splits text with → llama.cpp's name for the same; None: ByteLevel's own alone.

Behind `DIGITS` ByteLevel's own follows, behind the others nothing does.
"""

REQUIRED = (
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.add_bos_token",
)
_PHI3 = re.compile(r"phi-?3", re.IGNORECASE)
_PHI3_MODEST = {"<unk>", "<s>", "<|endoftext|>"}
_PHI3_TOKENS = _PHI3_MODEST | {"</s>"}
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<s>|</s>|<unk>", re.DOTALL)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp must know to make the same ids out of a text, and the same text out of ids."""

    kind: str
    """llama.cpp's tokenizer: "gpt2" (byte-level BPE) or "llama" (SentencePiece)."""
    split: str
    """llama.cpp's name of the pre-tokenizer."""
    tokens: list[str]
    types: list[int]
    special: dict[str, int]
    """"bos", "eos", "pad", perhaps "unk" → id."""
    add_bos: bool
    chat_template: str | None
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    add_space_prefix: bool = False
    swallows_space: bool = False
    """Special tokens take the white space behind them along, as Phi-3's do."""

    def fitting_name(self, name: str) -> str:
        """`name` so changed that llama.cpp, which looks for "phi-3" in it, treats special tokens rightly.

        With that word in the name special tokens swallow white space, and the file does not load unless four
        certain tokens are there; without it they swallow nothing.
        """
        if not self.swallows_space:
            return _PHI3.sub("Phi 3", name)
        return name if _PHI3.search(name) else f"{name} (Phi-3 tokens)"

    def add_to(self, writer: GGUFWriter) -> None:
        """Put everything into the header of `writer`."""
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.split)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.kind == "gpt2":
            writer.add_token_merges(self.merges)
        else:
            writer.add_token_scores(self.scores)
            writer.add_add_space_prefix(self.add_space_prefix)
        for name, token in self.special.items():
            getattr(writer, f"add_{name}_token_id")(token)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(False)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def read_vocabulary(checkpoint: Path, rows: int) -> Vocabulary:
    """Read the tokenizer beside a checkpoint.

    Args:
        checkpoint: folder with tokenizer.json, tokenizer_config.json, config.json.
        rows: rows of the embedding; ids without a token up to there are filled with unused ones.

    Raises: Problem where the tokenizer isn't there, isn't of a kind llama.cpp would read alike, or has more
        tokens than the embedding has rows.
    """
    file = checkpoint / "tokenizer.json"
    raw = _read_json(file)
    if not raw:
        raise Problem(f"{file} is not there", "Save the tokenizer into the checkpoint folder with save_pretrained.")
    model = raw["model"]
    if model.get("type") != "BPE":
        raise Problem(f"{file} holds a {model.get('type')} tokenizer", "Only BPE tokenizers can go into a GGUF here.")
    sentencepiece = bool(model.get("byte_fallback"))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    tokens, types = _tokens_and_types(raw, rows, merges, sentencepiece, file)
    special = _special_ids(checkpoint, {token: index for index, token in enumerate(tokens)})
    return Vocabulary(
        kind="llama" if sentencepiece else "gpt2",
        split="default" if sentencepiece else _split_name(raw, file),
        tokens=tokens,
        types=types,
        special=special,
        add_bos=_adds_bos(checkpoint, special["bos"]),
        chat_template=_chat_template(checkpoint),
        merges=[] if sentencepiece else merges,
        scores=_scores(tokens, merges) if sentencepiece else [],
        add_space_prefix=sentencepiece and _prepends_space(raw),
        swallows_space=_swallows_space(raw, set(tokens), file),
    )


def _tokens_and_types(
    raw: dict[str, Any], rows: int, merges: list[str], sentencepiece: bool, file: Path
) -> tuple[list[str], list[int]]:
    ids = {index: token for token, index in raw["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in raw.get("added_tokens", [])}
    ids |= {index: entry["content"] for index, entry in added.items()}
    if ids and max(ids) >= rows:
        raise Problem(
            f"{file} has {max(ids) + 1} tokens, the embedding only {rows} rows",
            "Use the tokenizer that the model was made with.",
        )
    reachable = None if raw["model"].get("ignore_merges") else {merge.replace(" ", "", 1) for merge in merges}
    tokens: list[str] = []
    types: list[int] = []
    for index in range(rows):
        tokens.append(ids.get(index, f"[PAD{index}]"))
        if index not in ids:
            types.append(TokenType.UNUSED)
        elif index in added:
            types.append(_type_of_added(added[index], raw["model"].get("unk_token")))
        else:
            types.append(_type_of_plain(ids[index], reachable, sentencepiece))
    return tokens, types


def _type_of_added(entry: dict[str, Any], unknown: str | None) -> TokenType:
    if entry["content"] == unknown:
        return TokenType.UNKNOWN
    if entry.get("special") or _LOOKS_SPECIAL.fullmatch(entry["content"]):
        return TokenType.CONTROL
    return TokenType.USER_DEFINED


def _type_of_plain(token: str, reachable: set[str] | None, sentencepiece: bool) -> TokenType:
    if sentencepiece and _BYTE.fullmatch(token):
        return TokenType.BYTE
    if reachable is None or len(token) == 1 or token in reachable:
        return TokenType.NORMAL
    return TokenType.UNUSED


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """SentencePiece joins the pair with the highest score first; merges stand in that order."""
    rank: dict[str, int] = {}
    for index, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", "", 1), index)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def _split_name(raw: dict[str, Any], file: Path) -> str:
    outer = raw.get("pre_tokenizer") or {}
    steps = outer.get("pretokenizers", [outer])
    kinds = [step.get("type") for step in steps]
    pattern = _pattern(steps[0])
    own = steps[-1].get("use_regex", True)  # whether ByteLevel splits by its own rule as well
    known = pattern in SPLITS and own == (pattern in (DIGITS, None))
    if not known or kinds[-1] != "ByteLevel" or len(kinds) != (1 if pattern is None else 2):
        raise Problem(
            f"{file} splits text by a rule that has no name here ({pattern or kinds})",
            f"Known are the rules of {', '.join(SPLITS.values())}.",
        )
    return SPLITS[pattern]


def _pattern(step: dict[str, Any]) -> str | None:
    """The regular expression that a first step splits by; none where it is ByteLevel already."""
    if step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return step["pattern"].get("Regex") or "a fixed text"
    if step.get("type") == "Digits" and step.get("individual_digits"):
        return DIGITS
    return None if step.get("type") == "ByteLevel" else str(step.get("type"))


def _prepends_space(raw: dict[str, Any]) -> bool:
    outer = raw.get("normalizer") or {}
    steps = outer.get("normalizers", [outer])
    metaspace = raw.get("pre_tokenizer") or {}
    return any(step.get("type") == "Prepend" for step in steps) or (
        metaspace.get("type") == "Metaspace" and metaspace.get("prepend_scheme", "always") != "never"
    )


def _swallows_space(raw: dict[str, Any], tokens: set[str], file: Path) -> bool:
    greedy = {entry["content"] for entry in raw.get("added_tokens", []) if entry.get("rstrip")}
    if greedy and (greedy & _PHI3_MODEST or not tokens >= _PHI3_TOKENS):
        raise Problem(
            f"{file}: the token {min(greedy)!r} takes white space along, as llama.cpp knows of Phi-3's alone",
            "Set rstrip to false for it.",
        )
    return bool(greedy)


def _special_ids(checkpoint: Path, ids: dict[str, int]) -> dict[str, int]:
    """The tokenizer's word counts first, then the generation configuration's, then the model's.

    llama.cpp takes id 11 where a byte-level tokenizer names no bos or eos, so something is always named.
    """
    named = _read_json(checkpoint / "tokenizer_config.json")
    configurations = [_read_json(checkpoint / name) for name in ("generation_config.json", "config.json")]
    special: dict[str, int] = {}
    for name in ("bos", "eos", "pad", "unk"):
        entry = named.get(f"{name}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        candidates = [ids.get(text) if text else None]
        for configuration in configurations:
            value = configuration.get(f"{name}_token_id")
            candidates.append(value[0] if isinstance(value, list) else value)
        known = [candidate for candidate in candidates if candidate is not None]
        if known:
            special[name] = known[0]
    if "eos" not in special:
        raise Problem(f"{checkpoint} names no end-of-text token", "Set eos_token in tokenizer_config.json.")
    special.setdefault("pad", special["eos"])
    special.setdefault("bos", special["pad"])
    return special


def _adds_bos(checkpoint: Path, bos: int) -> bool:
    named = _read_json(checkpoint / "tokenizer_config.json").get("add_bos_token")
    if isinstance(named, bool):
        return named
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode("a").ids[:1] == [bos]


def _chat_template(checkpoint: Path) -> str | None:
    file = checkpoint / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = _read_json(checkpoint / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Problem(f"{file} is not JSON ({error})", "Save the checkpoint again.") from error
    return content
