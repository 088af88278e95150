"""What a device check sees: a model that runs, a damaged one, a processor that the wheel is not made for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.pack import device, install
from potstill.pack.device import (
    FASTER,
    NEEDED,
    TOKENS,
    check_device,
    features_in_use,
    missing,
    processor_flags,
    refuse_processor,
)
from potstill.problem import Problem
from potstill.progress import Silent

PI4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n\nprocessor\t: 1\nFeatures\t: fp asimd\n"
SANDY_BRIDGE = "model name\t: Intel(R) Core(TM) i5-2400\nflags\t\t: fpu sse4_1 sse4_2 avx aes\nbugs\t\t: spectre_v1\n"


def cpuinfo(folder: Path, text: str) -> frozenset[str]:
    path = folder / "cpuinfo"
    path.write_text(text)
    return processor_flags(path)


def test_a_pack_is_verified_and_measured(packs: dict[str, Path], tmp_path: Path) -> None:
    name = install(packs["base"], tmp_path / "home", Silent()).name
    by_folder, by_name = check_device(packs["base"], tmp_path / "home"), check_device(Path(name), tmp_path / "home")
    for seen in (by_folder, by_name):
        assert seen.verified
        assert seen.model == "tiny-rice-Q4_0.gguf"
        assert seen.megabytes == next(packs["base"].glob("*.gguf")).stat().st_size / 1e6
        assert min(seen.load_s, seen.first_token_ms, seen.tokens_per_s) > 0
        assert seen.peak_mb > seen.megabytes
        assert seen.used == features_in_use() != ()
        assert not set(seen.used) & set(seen.unused)
    lines = by_folder.lines()
    assert "as its manifest says" in lines[0]
    assert f"{by_folder.tokens_per_s:.0f} tokens/s with 1 thread" in "\n".join(lines)
    assert json.loads(json.dumps(by_folder.to_json()))["prompt_tokens"] == by_folder.prompt_tokens > TOKENS


def test_a_bare_file_has_nothing_to_verify_it_by(packs: dict[str, Path]) -> None:
    seen = check_device(next(packs["pro"].glob("*.gguf")))
    assert not seen.verified
    assert "nothing to verify it by" in seen.lines()[0]


def test_a_damaged_pack_is_not_run(packs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(packs["base"], tmp_path / "copy"))
    model = next(copy.glob("*.gguf"))
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    monkeypatch.setattr(device, "measure", None)
    with pytest.raises(Problem, match="damaged"):
        check_device(copy, tmp_path / "home")


def test_what_is_no_model_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="neither a pack nor a GGUF"):
        check_device(tmp_path / "nothing", tmp_path / "home")


@pytest.mark.parametrize(
    ("text", "machine", "lacking"),
    [(PI4, "aarch64", []), (SANDY_BRIDGE, "x86_64", ["avx2", "fma", "f16c", "bmi2"]), (SANDY_BRIDGE, "riscv64", [])],
)
def test_the_processor_is_read_from_linux(tmp_path: Path, text: str, machine: str, lacking: list[str]) -> None:
    assert missing(cpuinfo(tmp_path, text), machine) == lacking


def test_where_the_system_says_nothing_nothing_is_missing(tmp_path: Path) -> None:
    assert processor_flags(tmp_path / "absent") == cpuinfo(tmp_path, "Processor: none\n") == frozenset()
    assert missing(frozenset(), "x86_64") == []


@pytest.mark.parametrize(
    ("text", "match"), [(SANDY_BRIDGE, "no avx2, fma"), ("flags : avx2 fma f16c bmi2\n", "broke off")]
)
def test_an_illegal_instruction_is_explained_where_the_processor_is_to_blame(
    packs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, match: str
) -> None:
    def ended(*_: object, **__: object) -> None:
        raise Problem("Measuring broke off: exit code -4", "If memory ran out, free some.")

    flags = cpuinfo(tmp_path, text)
    monkeypatch.setattr(device, "measure", ended)
    monkeypatch.setattr(device, "processor_flags", lambda: flags)
    monkeypatch.setattr(device.platform, "machine", lambda: "x86_64")
    with pytest.raises(Problem, match=match):
        check_device(packs["base"], tmp_path / "home")


def test_what_a_build_on_the_machine_would_use_is_named(
    packs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "processor_flags", lambda: frozenset({"avx512f", "asimddp"}))
    monkeypatch.setattr(device, "features_in_use", lambda: ("AVX2", "DOTPROD"))
    seen = check_device(packs["base"], tmp_path / "home")
    assert seen.unused == ("AVX512",)
    assert "also has AVX512: llama.cpp built on this machine may be faster" in seen.lines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="wheels for other systems are built otherwise")
def test_the_published_wheel_uses_what_is_said_to_be_needed() -> None:
    """The list stands in RUN.md too: a wheel that asks for other things must change both."""
    words = {flag.upper() for flag in NEEDED.get(device.platform.machine(), ()) if flag != "asimd"}
    assert words <= set(features_in_use())
    assert not set(FASTER.values()) & set(features_in_use())


def test_a_processor_that_lacks_what_the_wheel_needs_is_tried_before_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "cpuinfo"
    old.write_text("flags\t: fpu sse2\n", encoding="utf-8")
    monkeypatch.setattr(device.platform, "machine", lambda: "x86_64")
    assert subprocess.run([sys.executable, "-c", device.TRIAL], check=False).returncode == 0
    refuse_processor(old)  # here llama.cpp runs, whatever that file says: a build made for such a machine passes
    monkeypatch.setattr(device, "TRIAL", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    with pytest.raises(Problem, match="does not run on this processor, which has no avx2"):
        refuse_processor(old)
    old.write_text("flags\t: avx2 fma f16c bmi2\n", encoding="utf-8")
    refuse_processor(old)
