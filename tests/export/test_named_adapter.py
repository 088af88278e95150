"""A trained adapter beside every exported file: proved, on disk once, and refused where it is another's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from potstill.export.proof import prove
from potstill.export.writing import StudentFiles
from potstill.models.examples import Example
from potstill.models.gguf_adapter import adapter_path
from potstill.models.lora import Lora, write_lora
from potstill.problem import Problem
from potstill.recipe.student import AdapterSection
from potstill.run import Run

Exporting = Callable[..., Run]


def adapted(run: Run) -> tuple[Run, Lora]:
    """The run with an adapter `code`, as `distill` leaves it."""
    random = torch.Generator().manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(run.folder / "distill" / "student")
    shapes = {name: m.weight.shape for name, m in model.named_modules() if name.endswith(("q_proj", "down_proj"))}
    layers = {
        name: (torch.randn(4, columns, generator=random).half().float() / 8, torch.ones(rows, 4) / 8)
        for name, (rows, columns) in shapes.items()
    }
    (run.folder / "distill" / "adapter").mkdir()
    write_lora(Lora(8.0, layers), run.folder / "distill" / "adapter", "mark")
    section = AdapterSection.model_validate({"category": "code"})
    distill = run.recipe.distill.model_copy(update={"adapter": section})
    return replace(run, recipe=run.recipe.model_copy(update={"distill": distill})), Lora(8.0, layers)


def test_every_file_has_it_and_the_disk_has_it_once(exporting: Exporting, answers: list[Example]) -> None:
    plain = exporting(types=("F16", "Q4_0"), ship="Q4_0")
    alone = StudentFiles(plain, plain.folder / "export", "stamp").write("Q4_0")
    file = plain.folder / "export" / "tiny-Q4_0.gguf"
    before = file.read_bytes()
    run, lora = adapted(plain)
    files = StudentFiles(run, run.folder / "export", "stamp")
    exact, small = files.write("F16"), files.write("Q4_0")
    assert "named" not in alone and small["megabytes"] == alone["megabytes"] and file.read_bytes() == before
    assert exact["named"]["name"] == "tiny-F16.code.adapter.gguf" and exact["named"]["category"] == "code"
    assert exact["named"]["kl"] < 1e-4 < small["named"]["kl"]
    assert adapter_path(files.path("F16"), "code").samefile(adapter_path(file, "code"))
    with pytest.raises(Problem, match="nats from its student"):
        prove(files.checkpoint, adapter_path(files.path("F16"), "code"), answers, 1e-4)  # what is not merged differs
    stronger = Lora(12.0, lora.layers)
    with pytest.raises(Problem, match="nats from its student"):
        prove(files.checkpoint, adapter_path(files.path("F16"), "code"), answers, 1e-4, stronger)


def test_what_distill_should_have_left_is_missed(exporting: Exporting) -> None:
    run, _ = adapted(exporting(types=("F16",), ship="F16"))
    (run.folder / "distill" / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(Problem, match="no adapter can be read"):
        StudentFiles(run, Path(run.folder / "export"), "stamp").write("F16")
