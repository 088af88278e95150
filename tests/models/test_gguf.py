"""A GGUF we write is the same model: same ids and logits in llama.cpp, same weights when read back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from potstill.models import architecture, gguf_vocabulary
from potstill.models.gguf import write_gguf
from potstill.models.gguf_reader import load_state, read_metadata, read_table
from potstill.models.llama import LlamaReader
from potstill.models.quantise import predicted_bytes
from potstill.problem import Problem
from potstill.progress import Silent
from tiny import FAMILIES, VOCABULARY, build_model, build_tokenizer, save_checkpoint

TEXT = "今天天气很好，please write 12 lines:\n    return first + second  😀"
ROPE = {
    "linear": ("qwen2", {"rope_type": "linear", "factor": 4.0}),
    "yarn": ("qwen2", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}),
    "llama3": (
        "llama",
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "partial": ("phi3", {"rope_type": "default", "partial_rotary_factor": 0.5}),
    "longrope": (
        "phi3",
        {
            "rope_type": "longrope",
            "original_max_position_embeddings": 256,
            "short_factor": [1.0 + 0.1 * index for index in range(8)],
            "long_factor": [2.0 + index for index in range(8)],
        },
    ),
}


def write(checkpoint: Path, out: Path, quantisation: str = "F16", **metadata: str) -> Path:
    write_gguf(checkpoint, out, quantisation, metadata=metadata, progress=Silent())
    return out


def torch_logits(checkpoint: Path, ids: list[int]) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32").eval()
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


def llama_logits(file: Path, ids: list[int]) -> np.ndarray:
    with LlamaReader(file, context=256, threads=1) as reader:
        return reader.logits(ids)


def text_ids() -> list[int]:
    return build_tokenizer()(TEXT).input_ids


def assert_same_logits(checkpoint: Path, file: Path, limit: float = 0.02) -> None:
    expected, found = torch_logits(checkpoint, text_ids()), llama_logits(file, text_ids())
    assert found.shape == expected.shape == (len(text_ids()), VOCABULARY)
    assert expected.std() > 1  # far from uniform, or the comparison would mean nothing
    assert np.abs(found - expected).max() <= limit


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_transformers(family: str, tied: bool, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", family=family, tie_word_embeddings=tied)
    file = write(checkpoint, tmp_path / "model.gguf")
    assert ("output.weight" in read_table(file).tensors) is not tied
    assert_same_logits(checkpoint, file)


@pytest.mark.parametrize("kind", ROPE)
def test_scaled_rotary_embeddings_are_kept(kind: str, tmp_path: Path) -> None:
    family, rope = ROPE[kind]
    checkpoint = save_checkpoint(tmp_path / "model", family=family, rope_parameters={"rope_theta": 500.0, **rope})
    plain = save_checkpoint(
        tmp_path / "plain", family=family, rope_parameters={"rope_theta": 500.0, "rope_type": "default"}
    )
    assert np.abs(torch_logits(checkpoint, text_ids()) - torch_logits(plain, text_ids())).max() > 0.1
    assert_same_logits(checkpoint, write(checkpoint, tmp_path / "model.gguf"))


def test_llama_with_biases_and_wide_heads(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", family="llama", attention_bias=True, head_dim=32)
    assert_same_logits(checkpoint, write(checkpoint, tmp_path / "model.gguf"))


@pytest.mark.parametrize("quantisation", ["Q8_0", "Q4_0", "BF16"])
def test_quantised_weights_read_back_make_the_same_model(
    quantisation: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Near, not equal: llama.cpp also rounds activations to 8 bits. The weights are those in the file."""
    file = write(tiny_checkpoint, tmp_path / "model.gguf", quantisation)
    model = build_model(build_tokenizer())
    state = {name: torch.from_numpy(weight) for name, weight in load_state(file).items()}
    model.load_state_dict(state, strict=False)
    with torch.inference_mode():
        expected = model(torch.tensor([text_ids()])).logits[0].log_softmax(-1)
    found = torch.from_numpy(llama_logits(file, text_ids())).log_softmax(-1)
    divergence = (expected.exp() * (expected - found)).sum(-1).mean()
    assert divergence < 0.005


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_come_back_exactly(family: str, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", family=family, tie_word_embeddings=family == "qwen2")
    stored = {name: weight.numpy() for name, weight in load_file(checkpoint / "model.safetensors").items()}
    whole = load_state(write(checkpoint, tmp_path / "f32.gguf", "F32"))
    half = load_state(write(checkpoint, tmp_path / "f16.gguf", "F16"))
    assert whole.keys() == half.keys() == stored.keys()
    for name, weight in stored.items():
        assert np.array_equal(whole[name], weight)
        assert np.array_equal(half[name], weight if weight.ndim == 1 else weight.astype(np.float16))


def test_a_checkpoint_in_several_files_and_bfloat16(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype="bfloat16")
    for folder, size in (("one", "1GB"), ("many", "100KB")):
        shutil.copytree(tiny_checkpoint, tmp_path / folder, ignore=shutil.ignore_patterns("*.safetensors"))
        model.save_pretrained(tmp_path / folder, max_shard_size=size)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one = load_state(write(tmp_path / "one", tmp_path / "one.gguf", "BF16"))
    many = load_state(write(tmp_path / "many", tmp_path / "many.gguf", "BF16"))
    for name, weight in model.named_parameters():
        assert np.array_equal(many[name], weight.detach().float().numpy())
        assert np.array_equal(many[name], one[name])


def test_the_header_says_everything(tiny_checkpoint: Path, tmp_path: Path) -> None:
    metadata = read_metadata(
        write(
            tiny_checkpoint,
            tmp_path / "model.gguf",
            "Q8_0",
            **{"general.name": "Small", "general.license": "apache-2.0", "fingerprint": "4f2a"},
        )
    )
    assert metadata["general.name"] == "Small"
    assert metadata["general.license"] == "apache-2.0"
    assert metadata["potstill.fingerprint"] == "4f2a"
    assert metadata["qwen2.rope.freq_base"] == 20000.0
    assert metadata["qwen2.feed_forward_length"] == 96
    assert metadata["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0


@pytest.mark.parametrize("key", [*architecture.REQUIRED, *gguf_vocabulary.REQUIRED, "tokenizer.ggml.merges"])
def test_a_dropped_key_would_be_noticed(key: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    real = gguf.GGUFWriter.add_key_value

    def add_all_but_one(self: gguf.GGUFWriter, name: str, *rest: object) -> None:
        if name.removeprefix("qwen2.") != key:
            real(self, name, *rest)

    monkeypatch.setattr(gguf.GGUFWriter, "add_key_value", add_all_but_one)
    with pytest.raises(RuntimeError, match=key):
        write(tiny_checkpoint, tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quantisation", ["F16", "Q4_0", "Q4_K"])
def test_the_size_is_the_predicted_one(quantisation: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Within 8 kB: the table isn't predicted, and a tiny vocabulary is not a large one in small."""
    shapes = {name: weight.shape for name, weight in load_file(tiny_checkpoint / "model.safetensors").items()}
    size = write(tiny_checkpoint, tmp_path / "model.gguf", quantisation).stat().st_size
    assert abs(size - predicted_bytes(shapes, quantisation)) < 8192


class TestWritingRefuses:
    """Bad input gets one clear line, and nothing is left behind."""

    @pytest.fixture
    def copy(self, tiny_checkpoint: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))

    @contextmanager
    def refused(self, folder: Path, match: str) -> Iterator[Path]:
        with pytest.raises(Problem, match=match):
            yield folder / "out.gguf"
        assert not list(folder.glob("out.gguf*"))

    def test_an_unknown_type(self, copy: Path, tmp_path: Path) -> None:
        with self.refused(tmp_path, "Q3_X.*Q4_0") as out:
            write(copy, out, "Q3_X")

    def test_a_folder_that_is_no_checkpoint(self, tmp_path: Path) -> None:
        with self.refused(tmp_path, "config.json is not there") as out:
            write(tmp_path, out)

    def test_another_family(self, copy: Path, tmp_path: Path) -> None:
        (copy / "config.json").write_text('{"model_type": "gpt2"}')
        with self.refused(tmp_path, "'gpt2'.*qwen2") as out:
            write(copy, out)

    def test_a_tensor_too_few_and_one_too_many(self, copy: Path, tmp_path: Path) -> None:
        weights = load_file(copy / "model.safetensors")
        norm = weights.pop("model.norm.weight")
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
        with self.refused(tmp_path, "no weights for model.norm") as out:
            write(copy, out)
        save_file({**weights, "model.norm.weight": norm, "score.weight": norm.clone()}, copy / "model.safetensors")
        with self.refused(tmp_path, "'score.weight'") as out:
            write(copy, out)

    def test_a_truncated_safetensors_file(self, copy: Path, tmp_path: Path) -> None:
        file = copy / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1000])
        with self.refused(tmp_path, "model.safetensors can't be read") as out:
            write(copy, out)

    def test_weights_that_are_not_numbers(self, copy: Path, tmp_path: Path) -> None:
        weights = load_file(copy / "model.safetensors")
        weights["model.layers.2.mlp.up_proj.weight"][5, 7] = float("nan")
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
        with self.refused(tmp_path, "layers.2.mlp.up_proj.weight.*finite") as out:
            write(copy, out)

    def test_a_full_disk(self, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
        with self.refused(tmp_path, r"the disk of .* has 0 MB left") as out:
            write(copy, out)

    def test_a_disk_that_fills_up_meanwhile(self, copy: Path, tmp_path: Path, monkeypatch) -> None:
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", fail)
        with self.refused(tmp_path, "No space left") as out:
            write(copy, out)


def test_an_interrupted_write_leaves_the_old_file(tiny_checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "model.gguf"
    out.write_bytes(b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tiny_checkpoint, out)
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]
    assert out.read_bytes() == b"old"


def test_ids_are_those_of_the_tokenizer_of_the_folder(tiny_gguf: Path, tiny_checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    with LlamaReader(tiny_gguf, context=256, threads=1) as reader:
        assert reader.tokenize(TEXT) == tokenizer(TEXT).input_ids
