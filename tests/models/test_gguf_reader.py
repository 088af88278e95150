"""A GGUF is read as it is, and a damaged one is refused with a reason, never with a traceback."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potstill.models.gguf_reader import check_gguf, load_state, read_table
from potstill.problem import Problem


@pytest.fixture(scope="module")
def content(tiny_gguf: Path) -> bytes:
    return tiny_gguf.read_bytes()


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    return tmp_path / "damaged.gguf"


def test_the_table_is_that_of_the_reference_reader(tiny_gguf: Path) -> None:
    reference = gguf.GGUFReader(tiny_gguf)
    table = read_table(tiny_gguf)
    for name, field in reference.fields.items():
        if name.startswith("GGUF."):
            continue
        if field.types[0] is gguf.GGUFValueType.ARRAY:
            assert table.arrays[name] == len(field.contents())
        else:
            assert table.metadata[name] == field.contents()
    assert len(table.metadata) + len(table.arrays) == reference.fields["GGUF.kv_count"].contents()
    for tensor in reference.tensors:
        own = table.tensors[tensor.name]
        assert (own.start, own.size) == (tensor.data_offset, tensor.n_bytes)
        assert list(own.shape) == tensor.shape.tolist()[::-1]
    assert len(table.tensors) == len(reference.tensors)


def test_weights_are_those_of_the_reference_reader(tiny_ggufs: dict[str, Path]) -> None:
    reference = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny_ggufs["Q8_0"]).tensors}
    stored = reference["blk.3.ffn_down.weight"]
    expected = dequantize(stored.data, stored.tensor_type)
    assert np.array_equal(load_state(tiny_ggufs["Q8_0"])["model.layers.3.mlp.down_proj.weight"], expected)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("missing", None, "is not there"),
        ("empty", b"", "is not a GGUF file"),
        ("text", b"This is a text file, and not a model at all.", "is not a GGUF file"),
        ("header", b"GGUF" + struct.pack("<I", 3), "is not a GGUF file"),
        ("version", b"GGUF" + struct.pack("<IQQ", 99, 0, 0), "version 99"),
        ("endless", b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "ends too early"),
        ("long", b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63), "ends too early"),
    ],
)
def test_what_is_no_gguf_is_refused(name: str, text: bytes | None, match: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(Problem, match=match):
        check_gguf(file)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="is not there"):
        check_gguf(tmp_path)


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_anywhere_is_refused(share: float, content: bytes, damaged: Path) -> None:
    damaged.write_bytes(content[: int(share * len(content))])
    with pytest.raises(Problem, match=r"ends too early|is not a GGUF"):
        check_gguf(damaged)


@given(place=st.integers(0, 40_000), value=st.integers(0, 255))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_wrong_byte_never_ends_in_a_traceback(place: int, value: int, content: bytes, damaged: Path) -> None:
    """Most wrong bytes are found; within a text or a number they can't be, but nothing may crash."""
    broken = bytearray(content)
    broken[place] = value
    damaged.write_bytes(broken)
    try:
        check_gguf(damaged)
    except Problem as problem:
        assert str(damaged) in str(problem)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (struct.pack("<IQQ", 2, 64, 608), struct.pack("<IQQ", 2, 64, 609), "begins at"),
        (struct.pack("<IQQI", 2, 64, 608, 1), struct.pack("<IQQI", 2, 64, 608, 77), "unknown type 77"),
        (struct.pack("<IQQ", 2, 64, 608), struct.pack("<IQQ", 9, 64, 608), "9 dimensions"),
        (b"blk.1.ffn_up", b"blk.2.ffn_up", "stands there twice"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(
    old: bytes, new: bytes, match: str, content: bytes, damaged: Path
) -> None:
    assert old in content
    damaged.write_bytes(content.replace(old, new, 1))
    with pytest.raises(Problem, match=match):
        check_gguf(damaged)


def test_a_model_of_another_kind_is_not_read(content: bytes, damaged: Path) -> None:
    damaged.write_bytes(content.replace(b"qwen2", b"mamba"))
    with pytest.raises(Problem, match=r"'mamba'.*qwen2"):
        load_state(damaged)
