"""Packs made the second way: the base's file byte for byte, and an adapter that is switched on with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_pack_run import WebFolders, build_run
from transformers import AutoModelForCausalLM

from potstill.chat import find_models
from potstill.models.gguf_adapter import adapter_path, parts_of, write_lora_adapter
from potstill.models.llama import LlamaReader
from potstill.models.lora import Lora
from potstill.pack import find_pack_model, install, pack, read_manifest
from potstill.pack.manifest import MANIFEST, SELF, own_hash
from potstill.pack.runtime import WHEELS
from potstill.problem import Problem
from potstill.progress import Silent
from potstill.run import Run

MODEL, ADAPTER = "tiny-rice-Q4_0.gguf", "tiny-rice-Q4_0.code.adapter.gguf"


@pytest.fixture(scope="module")
def adapted_run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = build_run(tmp_path_factory.mktemp("adapted") / "run", tiny_checkpoint, ("Q8_0", "Q4_0"))
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    names = [name for name, _ in model.named_modules() if name.endswith("down_proj")]
    lora = Lora(8.0, {name: (torch.ones(4, 96) / 8, torch.ones(64, 4) / 8) for name in names})
    for kind in ("Q8_0", "Q4_0"):
        write_lora_adapter(
            adapter_path(run.folder / "export" / f"tiny rice-{kind}.gguf", "code"), lora, tiny_checkpoint, {}
        )
    return run


@pytest.fixture(scope="module")
def pair(adapted_run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Base and pro."""
    base, pro = pack(adapted_run, tmp_path_factory.mktemp("packs"), pro="adapter")
    return base, pro


def logits(gguf: Path) -> np.ndarray:
    with LlamaReader(gguf, context=64, threads=1, exact=True) as reader:
        return reader.logits(list(range(30)))


def test_pro_is_base_and_an_adapter(pair: tuple[Path, Path]) -> None:
    base, pro = pair
    first, second = read_manifest(base), read_manifest(pro)
    assert (first.adapter, second.adapter) == (None, ADAPTER)
    assert (base / MODEL).read_bytes() == (pro / MODEL).read_bytes() and first.model == second.model == MODEL
    listed = {file.name: file for file in second.files}
    assert listed[MODEL] in first.files and listed[ADAPTER].bytes == (pro / ADAPTER).stat().st_size
    assert second.size.total_bytes == sum(file.bytes for file in second.files) + max(WHEELS.values())
    assert (
        f"ADAPTER ./{ADAPTER}" in (pro / "Modelfile").read_text() and "ADAPTER" not in (base / "Modelfile").read_text()
    )
    guide = (pro / "RUN.md").read_text()
    assert f"llama-cli -m {MODEL} --lora {ADAPTER} -c" in guide and f'CommonAdapterLoraInfo("{ADAPTER}"' in guide
    assert "--lora" not in (base / "RUN.md").read_text() and "lora" not in (base / "RUN.md").read_text().casefold()
    assert "Q4_0 + code" in (pro / "MODEL_CARD.md").read_text()


def test_without_being_asked_a_pro_pack_is_a_larger_file(adapted_run: Run, tmp_path: Path) -> None:
    _, pro = pack(adapted_run, tmp_path)
    assert (read_manifest(pro).quantisation, read_manifest(pro).adapter) == ("Q8_0", None)


def test_a_run_without_an_adapter_has_none_to_pack(finished_run: Run, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"has no adapter beside it.*distill\.adapter\.category"):
        pack(finished_run, tmp_path, ["pro"], pro="adapter")


def test_it_installs_beside_its_base_without_fetching_the_model_again(
    pair: tuple[Path, Path], web: WebFolders, tmp_path: Path
) -> None:
    base, pro = pair
    install(base, tmp_path, Silent())
    shutil.copytree(pro, web.root / pro.name)
    folder = install(f"{web.address}/{pro.name}", tmp_path, Silent())
    fetched = [name for name, _ in web.asked]
    assert MODEL not in fetched and ADAPTER in fetched
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in pro.iterdir()
    }


def test_a_damaged_base_is_not_copied(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, pro = pair
    flip(install(base, tmp_path, Silent()) / MODEL)
    folder = install(pro, tmp_path, Silent())
    assert (folder / MODEL).read_bytes() == (pro / MODEL).read_bytes()


def test_installed_it_answers_with_the_adapter_and_can_do_without(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, pro = pair
    folder = install(pro, tmp_path, Silent())
    opened = find_pack_model(Path(pro.name), tmp_path)
    assert opened == folder / ADAPTER and parts_of(opened).model == folder / MODEL
    models = find_models(folder)
    assert {name: find() for name, find in models.items()} == {
        "tiny-rice-Q4_0-code": folder / ADAPTER, "tiny-rice-Q4_0": folder / MODEL,
    }  # fmt: skip
    assert next(iter(models)) == "tiny-rice-Q4_0-code" and next(iter(find_models(folder / MODEL))) == "tiny-rice-Q4_0"
    alone = logits(base / MODEL)
    assert np.array_equal(logits(folder / MODEL), alone)
    assert np.abs(logits(opened) - alone).max() > 0.1


def test_an_adapter_can_be_asked_for(adapted_run: Run) -> None:
    gguf = adapted_run.folder / "export" / "tiny rice-Q8_0.gguf"
    assert list(find_models(gguf)) == ["tiny rice-Q8_0", "tiny rice-Q8_0-code"]
    assert next(iter(find_models(gguf, "code").values()))() == adapter_path(gguf, "code")
    names = list(find_models(adapted_run.folder, "code"))
    assert names == ["student-code", "student", "student-Q8_0", "student-Q8_0-code", "teacher"]
    with pytest.raises(Problem, match="has no adapter 'poems'"):
        find_models(gguf, "poems")


def test_a_flipped_byte_in_the_adapter_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = install(pair[1], tmp_path / "home", Silent())
    flip(folder / ADAPTER)
    with pytest.raises(Problem, match=r"code\.adapter\.gguf is damaged"):
        find_pack_model(folder, tmp_path / "home")
    (folder / ADAPTER).unlink()
    with pytest.raises(Problem, match=r"code\.adapter\.gguf is missing"):
        find_pack_model(folder, tmp_path / "home")
    copy = Path(shutil.copytree(pair[1], tmp_path / "copy"))
    flip(copy / ADAPTER)
    with pytest.raises(Problem, match="is not what the manifest promises"):
        install(copy, tmp_path / "other", Silent())
    assert find_pack_model(Path(pair[1].name), tmp_path / "other") is None


@pytest.mark.parametrize("name", ["absent.code.adapter.gguf", "LICENSE", "tiny-rice-Q4_0.adapter.gguf"])
def test_a_manifest_with_another_adapter_is_refused(pair: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(pair[1], tmp_path / "copy"))
    fields = json.loads((folder / MANIFEST).read_text())
    fields["adapter"] = name
    fields[SELF] = own_hash(fields)
    (folder / MANIFEST).write_text(json.dumps(fields))
    with pytest.raises(Problem, match="is not among the files, or not named after the model"):
        read_manifest(folder)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
