"""Several ranks are one process: the same batches, the same curve, the same end, whoever is killed on the way.

Ranks are forked from a server that has imported the heavy libraries once; one test goes through the real launcher.
"""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env
from safetensors.torch import load_file
from test_store import build_store
from test_trainer import changed
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from potstill import pipeline
from potstill.distill import newest_checkpoint, ranks
from potstill.distill.batches import LengthBatches
from potstill.distill.shared import Share
from potstill.problem import Problem
from potstill.recipe import validate_recipe
from potstill.run import Run, open_run, write_json
from tiny import build_model

SETTINGS = {
    "precision": "float32",
    "epochs": 4.0,
    "learning_rate": 1e-3,
    "still": 0.0,
    "batch_tokens": 48,  # three batches: the last step of every epoch leaves a rank without one
    "accumulation": 2,
    "chunk_rows": 4,
    "checkpoint_seconds": 1e-6,
}
EVERYTHING = {
    "tail": {"probability": 0.5, "share": 0.5},
    "hidden_pairs": [{"student": 2, "teacher": 2}],
    "finish": {"share": 0.5, "type": "Q8_0"},
    "losses": {"cross_entropy": 0.5, "shares_every": 1},
}
Make = Callable[..., Run]


@pytest.fixture(scope="module")
def make(tiny_checkpoint: Path, tiny_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a run that stands before `distill`."""
    teacher = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype="float32").eval()

    def make(student: PreTrainedModel | None = None, **distill: Any) -> Run:
        folder = tmp_path_factory.mktemp("ranks")
        export = {"ship": "Q8_0"}  # what the finish rounds for
        named = {"model": str(tiny_checkpoint)}
        asked = {"name": "t", "teacher": named, "export": export, "distill": SETTINGS | distill}
        run = Run(folder / "run", validate_recipe(asked, "test"), folder / "home")
        run.keep_recipe()
        build_store(teacher, run.folder / "signals", "hidden", layers=(2,))
        (student or changed(teacher, 1)).save_pretrained(run.folder / "prune" / "student")
        (run.folder / "vocab").symlink_to(tiny_tokenizer_dir)
        marks = {stage: {"fingerprint": mark} for stage, mark in pipeline.fingerprints(run).items()}
        write_json(run.folder / "manifest.json", {"stages": marks})
        return run

    return make


@pytest.fixture(scope="module")
def whole(make: Make) -> Run:
    """Trained by one process, plainly, and never killed."""
    run = make()
    pipeline.run_stage(run, "distill")
    return run


class DeadlyTask:
    """Kills its own process, as `kill -9` would, after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, amount: float = 1) -> None: ...

    def resume(self, amount: float) -> None:
        self.advance(amount)

    def describe(self, text: str) -> None:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """Progress whose bar is deadly."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def task(self, label: str, total: float | None, unit: str) -> Any:
        return contextlib.nullcontext(DeadlyTask(self.steps))

    def say(self, line: str) -> None: ...


def be_one(folder: Path, home: Path, surroundings: dict[str, str], dies_after: int | None) -> None:
    """In a process of its own: one rank of the training."""
    gc.freeze()  # what the server imported is shared memory: a collection that looks at it would copy all of it
    os.environ |= surroundings
    torch.set_num_threads(1)
    progress = Deadly(dies_after) if dies_after is not None else None
    try:
        pipeline.run_stage(open_run(folder, home, progress), "distill")
    except Problem as problem:
        sys.exit(str(problem))


def train(run: Run, count: int, dies_after: int | None = None) -> list[int | None]:
    """Train with `count` ranks; the first may die after so many steps. Returns: exit codes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["potstill.distill.trainer", "potstill.models.gguf", "torch.distributed"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    jobs = []
    for rank in range(count):
        launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        surroundings = {name: str(value) for name, value in launched.items()} | {"MASTER_ADDR": "127.0.0.1"}
        jobs.append(context.Process(target=be_one, args=(run.folder, run.home, surroundings, dies_after)))
        jobs[-1].start()
    for job in jobs:
        job.join(300)
        job.kill()
    return [job.exitcode for job in jobs]


def curve(run: Run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run.folder / "distill" / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight.float() for name, weight in load_file(folder / "student" / "model.safetensors").items()}


def same_end(run: Run, expected: Run) -> None:
    """The same curve, and students that differ by a hundredth of what was learned at most."""
    for line, other in zip(curve(run), curve(expected), strict=True):
        assert line.keys() == other.keys()
        for name in line.keys() - {"seconds"}:
            assert line[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6), name
    begin, end, other_end = (weights(one.folder / where) for one, where in (
        (run, "prune"), (run, "distill"), (expected, "distill")
    ))  # fmt: skip
    learned = max(float((end[name] - begin[name]).abs().max()) for name in end)
    assert learned > 1e-3
    assert max(float((end[name] - other_end[name]).abs().mean()) for name in end) < 0.01 * learned


@pytest.mark.parametrize("count", [2, 3])
def test_the_shares_of_all_ranks_are_one_process_s_batches(count: int) -> None:
    def batches() -> LengthBatches:
        return LengthBatches(range(1, 20), 32, 5)

    whole, shares = batches(), [Share(batches(), rank, count) for rank in range(count)]
    for epoch in (0, 1):
        for one in (whole, *shares):
            one.set_epoch(epoch)
        in_turn = [batch for slot in zip(*shares, strict=True) for batch in slot]
        assert [batch for batch in in_turn if batch] == list(whole)
        assert {len(list(share)) for share in shares} == {len(shares[0])} and not any(in_turn[len(whole) :])


def test_two_ranks_are_one_process_with_twice_the_accumulation(make: Make, whole: Run) -> None:
    two = make()
    assert train(two, 2) == [0, 0]
    same_end(two, whole)
    assert two.manifest()["distill"]["fingerprint"] == whole.manifest()["distill"]["fingerprint"]
    assert not two.partial("distill").exists()


def test_so_they_are_with_tails_a_finish_matched_layers_and_every_loss(make: Make) -> None:
    one, two = make(**EVERYTHING), make(**EVERYTHING)
    pipeline.run_stage(one, "distill")
    assert train(two, 2) == [0, 0]
    same_end(two, one)


def test_a_narrower_student_with_a_head_of_its_own_learns_the_same(
    make: Make, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = {"hidden_pairs": [{"student": 1, "teacher": 2}], "tail": {"probability": 0.9, "share": 1.0}}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "tie_word_embeddings": False}
    one, two = (make(build_model(tiny_tokenizer, **shape), **settings) for _ in range(2))
    pipeline.run_stage(one, "distill")
    assert train(two, 2) == [0, 0]
    same_end(two, one)


def test_a_training_killed_twice_goes_on_with_other_numbers_of_ranks(make: Make, whole: Run) -> None:
    killed = make()
    for count, steps, survivors in ((2, 3, [1]), (1, 2, [])):
        assert train(killed, count, dies_after=steps) == [-signal.SIGKILL, *survivors]
        assert newest_checkpoint(killed.partial("distill")) is not None
    assert train(killed, 2) == [0, 0]
    same_end(killed, whole)


def test_under_a_budget_all_leave_at_the_first_one_s_time(make: Make) -> None:
    run = make(budget_minutes=0.05, epochs=1.0)
    assert train(run, 2) == [0, 0]
    lines = curve(run)
    assert lines[-1]["progress"] >= 2 / 3 - 0.01  # where one step is all that fits; it ends nearer to 1 the more do


def test_accelerate_s_launcher_ends_the_job_when_a_rank_is_killed(make: Make) -> None:
    """It hands over to torchrun's, which is thereby tested too."""
    killed = make(epochs=100.0)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    job = subprocess.Popen(
        [*launcher, "--main_process_port=0", "-m", "potstill", "distill", str(killed.folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "POTSTILL_HOME": str(killed.home)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        while not list(killed.partial("distill").glob("checkpoint-*")):
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.05)
        second = next(one for one in psutil.Process(job.pid).children() if one.environ().get("RANK") == "1")
        second.kill()
        said = job.communicate(timeout=300)[0]
    finally:
        job.kill()
    assert job.returncode == 1 and f"Signal {signal.SIGKILL.value} (SIGKILL) received by PID {second.pid}" in said
    assert newest_checkpoint(killed.partial("distill")) is not None


def launched(monkeypatch: pytest.MonkeyPatch, **also: str) -> None:
    for name, value in ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"} | also).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("settings", "also", "message"),
    [
        ({"accumulation": 3}, {}, r"accumulation = 3 .* among 2 processes. Set it to 4"),
        ({"on_policy": {"share": 0.5}}, {}, r"on_policy.share = 0.5: the student writes"),
        ({"consistency": {"weight": 0.5}}, {}, r"consistency.weight = 0.5: the student writes"),
        ({"adapter": {"category": "code"}}, {}, r"distill.adapter is trained after"),
        ({}, {"ACCELERATE_USE_FSDP": "true"}, "FSDP was asked for"),
    ],
)
def test_what_several_cannot_do_is_refused_before_any_work(
    make: Make, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], also: dict[str, str], message: str
) -> None:
    run = make(**settings)
    launched(monkeypatch, **also)
    with pytest.raises(Problem, match=message):
        pipeline.run_stage(run, "distill")


def test_other_stages_are_the_work_of_one(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make()
    launched(monkeypatch)
    for start in (lambda: pipeline.run_stage(run, "signals"), lambda: pipeline.run_all(run)):
        with pytest.raises(Problem, match="is the work of one process, and 2 were started"):
            start()


def test_without_a_launcher_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")  # a cluster may say this of something else
    assert (ranks.rank(), ranks.count(), ranks.started_alone()) == (0, 1, False)


@pytest.mark.parametrize("flags", [["--cpu"], []])
def test_one_process_where_accelerate_was_asked_for_two_is_told_of(
    monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    asked = [*flags, "--num_processes", "2", "-m", "potstill", "distill", "RUN"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(asked))
    _, surroundings = prepare_simple_launcher_cmd_env(arguments)
    for name in surroundings.keys() - os.environ.keys():
        monkeypatch.setenv(name, surroundings[name])
    assert ranks.started_alone()
