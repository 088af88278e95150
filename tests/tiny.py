"""Tiny checkpoints made in code: a byte-level BPE trained on a few sentences, a random model over it.

In:  nothing from disk, nothing from a network.
Out: a tokenizer, a random causal model (seeded), or both as a Transformers folder.
Does not know: any test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOKENS = 600
VOCABULARY = 608  # more rows than tokens, as in Qwen's checkpoints: the last eight are never used
FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
}
SENTENCES = [
    "今天天气很好，我们一起去公园散步吧。",
    "请帮我写一封邮件，告诉客户会议改到下周三下午两点。",
    "怎么做番茄炒蛋？先把鸡蛋打散，再把番茄切成小块。",
    "请用一句话概括下面这段话的主要内容。",
    "会议纪要：项目进度正常，预算需要重新审核。",
    "你好！很高兴认识你，请问有什么可以帮你的？",
    "The quick brown fox jumps over the lazy dog.",
    "Please write a short summary of the meeting in three sentences.",
    "What's the difference between a list and a tuple? It's simple.",
    "def add(first, second):\n    return first + second\n",
    'for name in names:\n    print(f"hello {name}")\n\n',
    "find . -name '*.py' | xargs grep -n \"import\" > out.txt\n",
    'import json\nwith open("data.json", encoding="utf-8") as file:\n    rows = json.load(file)\n',
    "2024 年共有 365 天，12 个月；1 + 1 = 2。\t\t😀 🎉",
]


def train_bpe(tokens: int = TOKENS) -> Tokenizer:
    """Byte-level BPE with Qwen2's pre-tokenizer; the special tokens take the last ids, as in Qwen2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tokens - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def build_tokenizer(tokens: int = TOKENS) -> PreTrainedTokenizerFast:
    """A Qwen2-like chat tokenizer of at most `tokens` tokens; the same on every call."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(tokens),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def train_sentencepiece(tokens: int = TOKENS) -> Tokenizer:
    """BPE over characters with byte fallback, as Llama 2's and Phi-3's: `▁` for a space, no pre-tokenizer."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(
        [f"▁{sentence}" for sentence in SENTENCES],
        trainers.BpeTrainer(vocab_size=tokens - 259 - 5, show_progress=False),
    )
    pieces = sorted(trained.get_vocab(), key=trained.token_to_id)
    vocabulary = {
        token: index
        for index, token in enumerate(["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces])
    }
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True, ignore_merges=False)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")]
    )
    return tokenizer


def build_model(
    tokenizer: PreTrainedTokenizerFast, *, family: str = "qwen2", seed: int = 0, **overrides: object
) -> PreTrainedModel:
    """A random float32 causal model of `family`, in evaluation mode; `overrides` go to its configuration.

    Weights are larger than a fresh initialisation's, so that predictions are far from uniform and a wrong
    permutation or a missing bias shows.
    """
    configuration_class, model_class = FAMILIES[family]
    settings: dict[str, object] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    if family == "qwen3":
        settings["head_dim"] = 32  # wider than hidden / heads, as in Qwen3-0.6B
    torch.manual_seed(seed)
    model = model_class(configuration_class(**{**settings, **overrides}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id], pad_token_id=tokenizer.pad_token_id
    )
    return model.eval()


def save_checkpoint(
    folder: Path, *, family: str = "qwen2", seed: int = 0, tokens: int = TOKENS, **overrides: object
) -> Path:
    """Write model, tokenizer and chat template as a Transformers folder; returns `folder`."""
    tokenizer = build_tokenizer(tokens)
    build_model(tokenizer, family=family, seed=seed, **overrides).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


PHI3_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def build_phi3_tokenizer() -> PreTrainedTokenizerFast:
    """A chat tokenizer of Phi-3's kind: other tokens, other special tokens and another template than Qwen's."""
    tokenizer = train_sentencepiece()
    chat = ("<|endoftext|>", "<|assistant|>", "<|user|>", "<|system|>", "<|end|>")
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in chat])
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<|endoftext|>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    whole.chat_template = PHI3_TEMPLATE
    return whole


def save_phi3(folder: Path, *, weights: bool = True, seed: int = 0, **overrides: object) -> Path:
    """Write a tiny Phi-3 with a tokenizer of its own, six heads of 48 over a hidden width of 288; returns `folder`.

    Like Phi-3-mini's 96, its head width does not divide the student's hidden width (128 here, 1024 there).

    Args:
        weights: False leaves config.json and the tokenizer alone.
    """
    tokenizer = build_phi3_tokenizer()
    shape: dict[str, object] = {"hidden_size": 288, "num_attention_heads": 6, "num_key_value_heads": 6}
    model = build_model(tokenizer, family="phi3", seed=seed, **{**shape, "tie_word_embeddings": False, **overrides})
    model.save_pretrained(folder)
    if not weights:
        (folder / "model.safetensors").unlink()
    tokenizer.save_pretrained(folder)
    return folder


def by_characters(texts: Sequence[str], size: int = 997) -> NDArray[np.float32]:
    """A toy embedder, [n, size]: characters counted by code point; with none in common cosine is 0."""
    counts = np.zeros((len(texts), size), dtype=np.float32)
    for place, text in enumerate(texts):
        for character in text:
            counts[place, ord(character) % size] += 1
    return counts
