"""The last part of the training, run on the weights that the shipped file will hold.

In:  a student that trains; the type of the file that is to be shipped.
Out: rounded weights while a step reads and learns, the float ones while it moves them; at the end, weights that the
     file holds exactly.
Does not know: losses, batches, how a file is written.

Gradients are taken at the rounded weights and applied to the float ones: straight-through (Bengio et al. 2013,
arXiv:1308.3432), as in quantisation-aware training (Jacob et al. 2018, arXiv:1712.05877). Nothing is added to the
graph: before a step each weight's storage is exchanged for a rounded copy, and put back before the optimiser moves it.
A tied head is the embedding's own parameter, so it is rounded with it, wherever it is read.

A block of 32 weights has one scale. Searching it, as llama.cpp does, takes seconds for a whole student, so scales are
taken from that C code when the finish begins and once more half-way; in between, each weight goes to the nearest level
of its block. The last weights are checked against the C code once more, through the float16 they are saved in.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.distill.companion import Companion
from potstill.distill.ranks import rank
from potstill.models.checkpoint import write_tensors
from potstill.models.quantise import choose_type, quantise_rows
from potstill.problem import Problem
from potstill.recipe.student import FinishSection

Type = Literal["Q4_0", "Q8_0"]
BLOCK = 32
LEVELS: dict[Type, tuple[int, int]] = {"Q4_0": (-8, 7), "Q8_0": (-127, 127)}

TAKES = 2
"""How often the finish takes scales: weights move by hundredths of a level in it."""
PASSES = 8
"""More than any block was seen to need in `settled`."""
_CHUNK = 8192
"""Blocks rounded at a time: 1 MB of weights stays in the processor's cache, which makes it twice as fast."""


class Finish(Companion):
    """Rounds before a step, puts the float weights back before they are moved, rounds for good at the end.

    Should be the first companion: what others write with the student is then written with the weights that ship.

    Args:
        student: weights that the file keeps in floats (norms, biases, rows that do not divide) are left alone.
        section: the recipe's [distill.finish].
        folder: keeps the scales in use (`finish-STEP.safetensors`), so that a killed training goes on with the same.

    Raises: Problem where adapters are trained: the weights they are added to are not the shipped ones.
    """

    def __init__(self, student: PreTrainedModel, section: FinishSection, folder: Path) -> None:
        if any("lora_" in name for name, _ in student.named_parameters()):
            raise Problem(
                "distill.finish rounds the weights that are trained, and here adapters are",
                'Set distill.trained = "all" or "feed-forward", or distill.finish.share = 0.',
            )
        self.student, self.section, self.folder = student, section, folder
        self._scales: dict[str, Tensor] = {}
        self._take = -1
        self._masters: dict[str, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}

    def begin_step(self, step: int, progress: float) -> None:
        """Exchange the weights for rounded ones, from progress 1 - share on."""
        self.before_update()
        begin = 1.0 - self.section.share
        if progress <= begin + 1e-9:  # progress is where the step ends
            return
        take = min(int(TAKES * (progress - begin) / self.section.share), TAKES - 1)
        if not self._scales:
            self._load(step)
        if take > self._take:
            self._take_scales(step, take)
        for name, weight in quantised(self.student, self.section.type).items():
            if name not in self._buffers:
                self._buffers[name] = torch.empty_like(weight.data)
            self._masters[name] = weight.data
            round_to(weight.data, self._scales[name], self.section.type, self._buffers[name])
            weight.data = self._buffers[name]

    def before_update(self) -> None:
        """Put the float weights back, if they are not there. The gradients stay."""
        weights = quantised(self.student, self.section.type) if self._masters else {}
        for name, master in self._masters.items():
            weights[name].data = master
        self._masters.clear()

    def end(self) -> dict[str, Any]:
        """Leave weights in the student that its file holds exactly."""
        self.before_update()
        self._buffers.clear()
        if not self._scales:
            self._load(sys.maxsize)  # killed behind the last step
        kind, count, changed, inexact = self.section.type, 0, 0, 0
        for name, weight in quantised(self.student, kind).items():
            master = weight.detach().float().cpu()
            scales = self._scales.pop(name).cpu() if name in self._scales else searched_scales(master, kind)
            values = rounded(master, scales, kind)
            final, exact = settled(values, kind)
            weight.data.copy_(final)
            count += weight.numel()
            changed += int((final != values).view(-1, BLOCK).any(dim=-1).sum())
            inexact += int((~exact).sum())
        return {"finish": {"type": kind, "weights": count, "blocks_settled": changed, "rows_inexact": inexact}}

    def _take_scales(self, step: int, take: int) -> None:
        """Scales from the C code, kept in a file named by the step that they begin with."""
        weights = quantised(self.student, self.section.type)
        self._scales = {
            name: searched_scales(weight.detach().cpu(), self.section.type).to(weight.device)
            for name, weight in weights.items()
        }
        self._take = take
        if rank():
            return  # all ranks have the same weights, and the first keeps their scales
        for step_of, file in self._kept():
            if step_of > step:  # of a training that was killed, and has since taken another way
                file.unlink()
        write_tensors(self.folder / f"finish-{step}.safetensors", self._scales, {"take": str(take)})

    def _load(self, step: int) -> None:
        """The scales that a killed training was using at this step, if it had come so far."""
        kept = [(number, file) for number, file in self._kept() if number <= step]
        if not kept:
            return
        path = max(kept)[1]
        try:
            with safe_open(path, framework="pt") as file:
                self._take = int(file.metadata()["take"])
            found = load_file(path)
        except (OSError, SafetensorError) as error:
            raise Problem(f"{path}: is damaged ({error})", "Delete it; the scales are then taken anew.") from None
        weights = quantised(self.student, self.section.type)
        self._scales = {name: found[name].to(weight.device) for name, weight in weights.items()}

    def _kept(self) -> list[tuple[int, Path]]:
        return [(int(file.stem.split("-")[1]), file) for file in self.folder.glob("finish-*.safetensors")]


def quantised(student: PreTrainedModel, type_name: Type) -> dict[str, nn.Parameter]:
    """The parameters that a file of this type holds rounded; a tied head is the embedding, and named once."""
    return {
        name: parameter
        for name, parameter in student.named_parameters()
        if choose_type(parameter.shape, type_name) == type_name
    }


def rounded(weight: Tensor, scales: Tensor, type_name: Type) -> Tensor:
    """[R, D] float32 → each number at the nearest level of its block; scales: [R, D / 32] float16."""
    out = torch.empty_like(weight)
    round_to(weight, scales, type_name, out)
    return out


def round_to(weight: Tensor, scales: Tensor, type_name: Type, out: Tensor) -> None:
    """`rounded` into `out`, of weight's shape."""
    low, high = LEVELS[type_name]
    blocks, targets, flat = weight.view(-1, BLOCK), out.view(-1, BLOCK), scales.view(-1, 1)
    for begin in range(0, len(blocks), _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        scale = flat[rows].float()
        inverse = torch.where(scale == 0, scale, 1 / scale)
        torch.mul(blocks[rows], inverse, out=targets[rows])
        targets[rows].round_().clamp_(low, high).mul_(scale)


def settled(values: Tensor, type_name: Type) -> tuple[Tensor, Tensor]:
    """Values of which a file, written from a student saved in float16, holds exactly these.

    Nearly all do already: on a grid that the C code once chose, its search has an error of 0 to find, and float16's own
    rounding averages out in the scale (16 blocks in a million come out otherwise). A block whose largest level has sunk
    since its scale was taken may be outside the search; it takes the values that the file would hold instead. A block
    whose scale is below float16's normal numbers (6e-5; trained weights are not so small) may never settle.

    Args:
        values: [R, D] float32, on some grid.

    Returns: [R, D]; [R] whether the file holds the row exactly.
    """
    values = values.clone()
    exact = torch.zeros(len(values), dtype=torch.bool)
    for _ in range(PASSES):
        rows = (~exact).nonzero().flatten()
        file = _file_rows(values[rows], type_name)
        held = torch.from_numpy(dequantize(file, GGMLQuantizationType[type_name]))
        exact[rows] = (held == values[rows]).all(dim=-1)
        values[rows] = held
        if exact.all():
            break
    return values, exact


def searched_scales(weight: Tensor, type_name: Type) -> Tensor:
    """[R, D] → [R, D / 32] float16: what the C code chooses for each block."""
    file = _file_rows(weight, type_name)
    size = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]][1]
    heads = np.ascontiguousarray(file.reshape(len(file), -1, size)[:, :, :2])  # every block begins with its scale
    return torch.from_numpy(heads.view(np.float16)[:, :, 0])


def _file_rows(weight: Tensor, type_name: Type) -> NDArray[np.uint8]:
    """[R, D] → [R, bytes]: as the file of a student that is saved in float16 holds it."""
    return quantise_rows(weight.half().float().cpu().numpy(), type_name)
