"""llama.cpp makes the same ids of any text as the tokenizer the file was written from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from potstill.models.gguf import write_gguf
from potstill.models.gguf_reader import read_metadata
from potstill.models.gguf_vocabulary import DIGITS, SPLITS, read_vocabulary
from potstill.models.llama import LlamaReader
from potstill.problem import Problem
from potstill.progress import Silent
from tiny import (
    SENTENCES,
    TOKENS,
    VOCABULARY,
    build_model,
    build_tokenizer,
    save_checkpoint,
    train_sentencepiece,
)

TEXTS = [
    *SENTENCES,
    "",
    " ",
    "   indented\n\n\n\n\tand\r\nbroken  \n lines   ",
    "I'M sure THEY'LL say it's 1234567890 or 3.14!!!???\n",
    "混合 text，全角：ＡＢＣ１２３；“引号”——破折号……",
    "👩‍👩‍👧‍👦 🇨🇳 ❤️ \u200b\ufeff \x00\x07 ½ ﬁ é",
    "한국어 русский عربى ไทย 𠮷野家",
    "for (int i=0;i<n;i++){a[i]+=b[i]<<2;}//注释",
    "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b<|endoftext|><|endoftext|> c",
    "<|im_start|<|im_end|>|> <|unknown|>",
    "x=3.14e-10;y²+½Ⅷ①٣४\t 2026年11月24日  07:05\n\n 1 \n  22",
]


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def change(file: Path, edit: Callable[[dict], None]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    edit(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def assert_same_ids(checkpoint: Path, out: Path, texts: list[str]) -> None:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    write_gguf(checkpoint, out, "F16", metadata={}, progress=Silent())
    with LlamaReader(out, context=256, threads=1) as reader:
        for text in texts:
            assert reader.tokenize(text) == tokenizer.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize("name", SPLITS.values())
def test_ids_are_those_of_the_tokenizer(name: str, copy: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    pattern = next(pattern for pattern, known in SPLITS.items() if known == name)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern in (None, DIGITS))
    split: list[pre_tokenizers.PreTokenizer] = []
    if pattern == DIGITS:
        split = [pre_tokenizers.Digits(individual_digits=True)]
    elif pattern is not None:
        split = [pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    tokenizer.save(str(copy / "tokenizer.json"))
    assert read_vocabulary(copy, VOCABULARY).split == name
    assert_same_ids(copy, tmp_path / "model.gguf", TEXTS)


def save_sentencepiece(folder: Path, *, rstrip: bool) -> Path:
    tokenizer = train_sentencepiece()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    chat = [AddedToken(text, rstrip=rstrip, normalized=False) for text in ("<|user|>", "<|end|>")]
    tokenizer.add_special_tokens(chat)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|endoftext|>", unk_token="<unk>"
    )
    build_model(build_tokenizer(), family="phi3").save_pretrained(folder)
    whole.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("rstrip", [False, True])
@pytest.mark.parametrize("name", ["phi3", "student"])
def test_sentencepiece_ids_whatever_the_model_is_called(rstrip: bool, name: str, tmp_path: Path) -> None:
    """llama.cpp decides by the *name* of the model whether special tokens swallow white space."""
    checkpoint = save_sentencepiece(tmp_path / name, rstrip=rstrip)
    texts = [text for text in TEXTS if text and "\x00" not in text]
    assert_same_ids(checkpoint, tmp_path / "model.gguf", [*texts, "<|user|>\n 你好<|end|>\n<|user|> a"])


def test_token_types(copy: Path) -> None:
    def add_user_token(content: dict) -> None:
        token = {"content": "<tool_call>", "special": False, "normalized": False, "id": TOKENS}
        content["added_tokens"].append(token | {"single_word": False, "lstrip": False, "rstrip": False})
        content["model"]["vocab"]["[PAD601]"] = TOKENS + 1

    change(copy / "tokenizer.json", add_user_token)
    vocabulary = read_vocabulary(copy, VOCABULARY)
    tokenizer = build_tokenizer()
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == VOCABULARY
    types = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert types["<|im_end|>"] == types["<|endoftext|>"] == TokenType.CONTROL
    assert types["<tool_call>"] == TokenType.USER_DEFINED
    assert types["[PAD601]"] == types["[PAD607]"] == TokenType.UNUSED
    assert {types[token] for token in tokenizer.get_vocab() if "<|" not in token} == {TokenType.NORMAL}
    assert vocabulary.tokens[:TOKENS] == tokenizer.convert_ids_to_tokens(list(range(TOKENS)))


def test_special_ids_and_chat_template(tiny_gguf: Path) -> None:
    tokenizer = build_tokenizer()
    metadata = read_metadata(tiny_gguf)
    assert metadata["tokenizer.ggml.eos_token_id"] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert metadata["tokenizer.ggml.padding_token_id"] == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["tokenizer.chat_template"] == tokenizer.chat_template


def test_a_first_token_that_the_tokenizer_adds_is_added(copy: Path) -> None:
    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    start = ("<|im_start|>", tokenizer.token_to_id("<|im_start|>"))
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[start])
    tokenizer.save(str(copy / "tokenizer.json"))
    change(copy / "tokenizer_config.json", lambda content: content.update(bos_token="<|im_start|>"))
    vocabulary = read_vocabulary(copy, VOCABULARY)
    assert vocabulary.add_bos
    assert vocabulary.special["bos"] == start[1]
    change(copy / "tokenizer_config.json", lambda content: content.update(add_bos_token=False))
    assert not read_vocabulary(copy, VOCABULARY).add_bos


class TestRefuses:
    """A tokenizer that llama.cpp would read differently."""

    def test_none_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(Problem, match=r"tokenizer.json is not there"):
            read_vocabulary(tmp_path, VOCABULARY)

    def test_more_tokens_than_rows(self, copy: Path) -> None:
        with pytest.raises(Problem, match="600 tokens, the embedding only 599 rows"):
            read_vocabulary(copy, TOKENS - 1)

    def test_another_kind(self, copy: Path) -> None:
        change(copy / "tokenizer.json", lambda content: content["model"].update(type="Unigram"))
        with pytest.raises(Problem, match="Unigram"):
            read_vocabulary(copy, VOCABULARY)

    @pytest.mark.parametrize(
        "steps",
        [
            [{"type": "Digits", "individual_digits": False}, {"type": "ByteLevel", "use_regex": True}],
            [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "use_regex": False}],
            [{"type": "ByteLevel", "use_regex": False}],
            [{"type": "ByteLevel", "use_regex": True}, {"type": "Digits", "individual_digits": True}],
            [{"type": "Digits", "individual_digits": True}],
        ],
    )
    def test_an_unknown_rule_for_splitting(self, steps: list[dict], copy: Path) -> None:
        whole = {"type": "Sequence", "pretokenizers": steps}
        change(copy / "tokenizer.json", lambda content: content.update(pre_tokenizer=whole))
        with pytest.raises(Problem, match=r"no name here.*qwen2"):
            read_vocabulary(copy, VOCABULARY)

    def test_greedy_special_tokens_of_a_stranger(self, copy: Path) -> None:
        change(copy / "tokenizer.json", lambda content: content["added_tokens"][0].update(rstrip=True))
        with pytest.raises(Problem, match="white space"):
            read_vocabulary(copy, VOCABULARY)

    def test_no_end(self, copy: Path) -> None:
        change(copy / "tokenizer_config.json", lambda content: content.pop("eos_token"))
        for name in ("config.json", "generation_config.json"):
            change(copy / name, lambda content: content.pop("eos_token_id"))
        with pytest.raises(Problem, match="no end-of-text token"):
            read_vocabulary(copy, VOCABULARY)

    def test_broken_json(self, copy: Path) -> None:
        (copy / "tokenizer.json").write_text("{")
        with pytest.raises(Problem, match="is not JSON"):
            read_vocabulary(copy, VOCABULARY)


def test_the_tiny_checkpoint_is_the_same_every_time(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Other tests rely on it: a seed makes one model and one tokenizer."""
    again = save_checkpoint(tmp_path / "again")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (again / name).read_bytes() == (tiny_checkpoint / name).read_bytes()
