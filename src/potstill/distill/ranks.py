"""The processes that train one student together: which one this is, and what the first decides for all.

In:  what torchrun or Accelerate's launcher put into the environment.
Out: rank and count; a process group while the training lasts; values that all ranks hold alike.
Does not know: what is trained, run folders. Imports torch only where there are several.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from textwrap import shorten
from typing import TYPE_CHECKING, TypeVar

from potstill.problem import Problem

if TYPE_CHECKING:
    from potstill.recipe import DistillSection

Value = TypeVar("Value")

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others: longer than the first measures the curvature or sends a checkpoint away."""
_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
"""Set all three by every launcher; one alone may be there for another reason."""
_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""What Accelerate's launcher sets → what was asked for."""
_LOST = ("gloo", "connection closed", "connection reset", "nccl")
"""Words of the errors that a broken connection ends in; gloo's are of no class of their own."""


def count() -> int:
    """How many processes train together; 1 without a launcher."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _LAUNCHED) else 1


def rank() -> int:
    """Which of them this one is, from 0. The first alone writes and speaks."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def started_alone() -> bool:
    """True where Accelerate's launcher was asked for several processes without `--multi_gpu`.

    Unless it finds several GPUs it then starts one, leaves word of the others in the environment, and says nothing.
    """
    return count() == 1 and "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ


def share_of(accumulation: int) -> int:
    """Micro-batches a step of each rank, so that a step has as many in all as the recipe says.

    Raises: Problem where they cannot be divided evenly.
    """
    if accumulation % count():
        raise Problem(
            f"distill.accumulation = {accumulation} micro-batches a step cannot be divided among {count()} processes",
            f"Set it to {accumulation + -accumulation % count()}, or start a number of processes that divides it.",
        )
    return accumulation // count()


def refuse_several(verb: str) -> None:
    """Stop where several processes were started for what one does. Raises: Problem."""
    if count() > 1:
        raise Problem(
            f"`{verb}` is the work of one process, and {count()} were started",
            "Start it without a launcher; `potstill distill RUN` may have several.",
        )


def refuse_what_one_must_do(section: DistillSection) -> None:
    """Stop what several processes cannot do together. Raises: Problem."""
    share_of(section.accumulation)
    for name, what in _SHARDING.items():
        if os.environ.get(name, "").lower() in ("1", "true"):
            raise Problem(
                f"{what} was asked for, but every process here holds the whole student", "Launch without it: plain DDP."
            )
    if section.adapter.category is not None:
        raise Problem(
            "distill.adapter is trained after the student, by one process", "Start it without a launcher, or delete it."
        )
    writing = {"on_policy.share": section.on_policy.share, "consistency.weight": section.consistency.weight}
    for name, value in writing.items():
        if value:
            raise Problem(
                f"distill.{name} = {value:g}: the student writes while it trains, which takes one process",
                f"Start it without a launcher, or set distill.{name} = 0.",
            )


@contextmanager
def joined(section: DistillSection) -> Iterator[None]:
    """Be one of the ranks while the context lasts; nothing where there is only one.

    The first checks before it joins: the others wait for it, and a launcher stops them where it leaves.

    Raises: Problem where the recipe cannot be trained so, or another rank is lost on the way.
    """
    if count() == 1:
        yield
        return
    if rank() == 0:
        refuse_what_one_must_do(section)
    import torch
    from torch import distributed

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        distributed.init_process_group(backend(), timeout=PATIENCE)
        yield
    except RuntimeError as error:
        if not (isinstance(error, distributed.DistError) or any(word in str(error).lower() for word in _LOST)):
            raise
        raise Problem(
            f"process {rank()} of {count()} has lost another, which died or fell silent ({shorten(str(error), 150)})",
            "See what that one said. The same command, with any number of processes, goes on from the last checkpoint.",
        ) from None
    distributed.destroy_process_group()


def backend() -> str:
    """What carries the gradients: NCCL between GPUs, gloo between processors."""
    import torch

    return "nccl" if torch.cuda.is_available() else "gloo"


def agreed(decide: Callable[[], Value]) -> Value:
    """What the first rank decides, on every rank. All must ask, in the same order."""
    if count() == 1:
        return decide()
    from torch import distributed

    told = [decide() if rank() == 0 else None]
    distributed.broadcast_object_list(told, src=0)
    return told[0]  # type: ignore[return-value]
