"""The whole way on a tiny teacher: every stage, its artefacts, and a SIGKILL in each that changes nothing.

Killed processes are forked from a server that has imported the heavy libraries once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from listening import Listening
from potstill import machine, pipeline
from potstill.distill import newest_checkpoint
from potstill.progress import Progress, Task
from potstill.recipe import load_recipe
from potstill.run import Run, read_json, write_json
from tiny import save_checkpoint

RECIPE = """
name = "tiny"
seed = 3
[teacher]
model = "teacher"
[prompts]
golden = false
[[prompts.files]]
path = "prompts.jsonl"
held_out_share = 0.25
[answers]
context = 256
max_tokens = 12
slots = 1
[vocab]
size = 512
expectation_tokens = 200
coverage_tokens = 200
[signals]
group = 32
context = 256
shard_answers = 3
[prune]
layers = 3
ffn = 64
calibration_tokens = 512
[distill]
epochs = 2
batch_tokens = 256
learning_rate = 1e-3
checkpoint_seconds = 1e-6
hidden_pairs = [{ student = 2, teacher = 3 }]
[export]
types = ["F16", "Q8_0"]
ship = "Q8_0"
[evaluate]
rounds = 1
new_tokens = 8
prompts = 1
context = 256
samples = 2
sample_tokens = 8
code_tasks = 1
code_tokens = 16
commonsense = 3
commonsense_written = 2
stability_questions = 2
stability_samples = 2
stability_tokens = 8
reply_context = 256
bootstrap = 100
"""
OTHER_TRAINING = """budget_minutes = 0.02
temperature = { schedule = "linear", start = 2.0, end = 1.0, levels = 3 }"""
QUESTIONS = {
    "昨天买的吐司有点干，怎样吃更软？": "喷点水，烤两分钟。",
    "帮我想三个适合小猫的名字。": "团团、豆豆、年糕。",
    "把“收到请回复”说得客气些。": "麻烦您看到后回我一声，谢谢。",
    "自行车链条总掉，先检查哪里？": "先看变速器和链条松紧。",
    "用一句话夸一夸认真值日的同学。": "教室这么亮堂，多亏有你。",
    "晾衣服为什么要抖一抖？": "抖开褶皱，干得也快。",
    "请写一条店铺盘点暂停营业的通知。": "本店今日盘点，明日照常营业。",
    "Python 里怎样反转列表 rows？": "rows[::-1]",
    "shell 怎样数出文件有多少行？": "wc -l file.txt",
    "行李超重了，机场里怎么办？": "拿出重的东西随身带。",
    "给外婆讲讲什么是验证码。": "就是一次性的小密码，别告诉别人。",
    "两个人合租，水电费怎么分公平？": "平均分，或者各装一块表。",
    "写一个判断偶数的 Python 函数。": "def even(n):\n    return n % 2 == 0",
    "枕头多久洗一次合适？": "枕套每周洗，枕芯三个月洗一次。",
    "会议改期了，怎么跟客户开口？": "先道歉，再给两个新的时间。",
    "Which fruit keeps longest in a warm room?": "Apples.",
    "哪些花适合放在朝北的窗台？": None,
    "请给新来的同事写一句欢迎词。": None,
    "怎样把硬币上的黑渍擦掉？": None,
}
KILLS = {
    "prompts": ("prompts compared", 5),
    "answers": ("the teacher writes", 1),
    "vocab": ("probability kept", 1),
    "signals": ("the teacher reads", 5),
    "prune": ("cut and heal", 2),
    "distill": ("the student learns", 4),
    "export": ("tiny-Q8_0.gguf", 2),
    "evaluate": ("fidelity", 3),
}
"""Stage → the bar whose n-th advance is the last thing the process does."""
SURVIVES = {"signals": "*-*.safetensors", "export": "*-F16.gguf", "evaluate": "speed.json"}
"""What must lie there after the kill, and not be made again."""
SAME = {
    "prompts": ("*",),
    "answers": ("answers.jsonl",),
    "vocab": ("*",),
    "signals": ("*.safetensors", "index.json"),
    "prune": ("*", "*/*"),
    "export": ("*",),
    "evaluate": ("fidelity.json", "samples.json", "stability.json", "failures.json", "items.json"),
}
"""Files that are the same to the byte, killed or not; but safetensors writes its notes in any order."""


class Deadly:
    """Progress that kills its own process at the n-th advance of one bar, as `kill -9` would."""

    def __init__(self, label: str, after: int) -> None:
        self.label, self.left = label, after

    @contextmanager
    def task(self, label: str, total: float | None, unit: str) -> Iterator[Task]:
        yield _DeadlyTask(self, label)

    def say(self, line: str) -> None: ...


class _DeadlyTask:
    def __init__(self, progress: Deadly, label: str) -> None:
        self.progress, self.counts = progress, label == progress.label

    def advance(self, amount: float = 1) -> None:
        self.progress.left -= self.counts
        if self.counts and self.progress.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def resume(self, amount: float) -> None:
        self.advance(amount)

    def describe(self, text: str) -> None: ...


def hold_still(patch: pytest.MonkeyPatch) -> None:
    """Take the two decisions that are measured, so that they come out the same in every process."""
    from potstill.evaluate import fidelity, speed

    patch.setattr(machine, "fastest_dtype", lambda: "float32")
    patch.setattr(fidelity, "fastest_dtype", lambda: "float32")
    patch.setattr(speed, "usable_cores", lambda: 1)


def work_until_killed(place: Path, folder: Path, stage: str) -> None:
    """In a process of its own: do one stage of the run in `folder`, and die in it."""
    hold_still(pytest.MonkeyPatch())
    pipeline.run_stage(open_here(place, folder, Deadly(*KILLS[stage])), stage)


def open_here(place: Path, folder: Path, progress: Progress) -> Run:
    return Run(folder, load_recipe(place / "tiny.toml"), place / "home", progress)


@pytest.fixture(scope="module", autouse=True)
def steady() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        hold_still(patch)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with teacher, prompts, recipe and home."""
    place = tmp_path_factory.mktemp("whole")
    save_checkpoint(place / "teacher")
    rows = [{"prompt": question} | ({"answer": answer} if answer else {}) for question, answer in QUESTIONS.items()]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (place / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    (place / "tiny.toml").write_text(RECIPE, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def finished(place: Path) -> Run:
    """The run that nobody killed."""
    run = open_here(place, place / "finished", Listening())
    pipeline.run_all(run)
    return run


def stage_files(folder: Path) -> dict[str, int]:
    """Modification time of everything a stage has left, and of the manifest."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in [*files, folder / "manifest.json"]}


def test_every_stage_leaves_its_folder(finished: Run) -> None:
    left = {path.name for path in finished.folder.iterdir() if path.is_dir()}
    assert left == {stage.name for stage in pipeline.STAGES}
    assert {state.state for state in pipeline.states(finished)} == {"done"}
    assert {path.name for path in (finished.folder / "export").glob("*.gguf")} == {"tiny-F16.gguf", "tiny-Q8_0.gguf"}
    assert "<html" in (finished.folder / "report" / "report.html").read_text(encoding="utf-8")
    assert not list(finished.folder.rglob("*.pt")) + list(finished.folder.rglob("*.bin"))
    assert not list(finished.folder.rglob("*.tmp")) + list((finished.folder / "distill").glob("checkpoint-*"))
    entry = finished.manifest()["distill"]
    assert entry["seconds"] > 0 and entry["peak_memory_mb"] > 0 and entry["versions"]["torch"]


def test_every_artefact_says_what_made_it(finished: Run) -> None:
    from potstill.models.gguf_reader import read_metadata

    made_with = {name: entry["fingerprint"] for name, entry in finished.manifest().items()}
    for stage, weights in (("prune", "cut"), ("prune", "student"), ("distill", "student")):
        with safe_open(finished.folder / stage / weights / "model.safetensors", framework="pt") as file:
            assert file.metadata()["potstill.fingerprint"] == made_with[stage]
    metadata = read_metadata(finished.folder / "export" / "tiny-Q8_0.gguf")
    assert metadata["potstill.fingerprint"] == made_with["export"]
    assert metadata["potstill.student_fingerprint"] == made_with["distill"]


def test_the_scorecard_holds_every_number(finished: Run) -> None:
    card = read_json(finished.folder / "evaluate" / "scorecard.json")
    both, others = {"teacher", "student"}, {"student-F16"}
    speed = {"speed.first_token_ms", "speed.decode_tok_s", "speed.load_s", "memory.peak_mb", "size.file_mb"}
    fidelity = {"fidelity.kl", "fidelity.top1", "fidelity.perplexity"}
    quality = {"stability.bleu4_variance", "stability.similarity", "stability.ended", "answers.broken"}
    choices = {"commonsense.error", "commonsense.error_written"}
    assert speed | fidelity | quality | choices | {"code.runs", "code.passes", "naturalness.mean"} <= set(card)
    assert all(set(card[metric]) == both | others for metric in speed | {"stream.gap_p95_ms"})
    assert all(set(card[metric]) == both | others | {"cut", "healed", "trained"} for metric in fidelity)
    assert all(set(card[metric]) == both for metric in quality)
    assert all(set(card[metric]) == both | {"chance"} for metric in choices)
    keys = {"value", "n", "low", "high", "unit"}
    assert all(set(one) - {"note"} == keys for row in card.values() for one in row.values())
    assert all("note" in one for row in card.values() for one in row.values() if one["value"] is None)
    held_out = read_json(finished.folder / "prompts" / "report.json")["splits"]["held-out"]
    for model in ("cut", "healed", "trained", "student"):
        kl = card["fidelity.kl"][model]
        assert kl["n"] == held_out and 0 <= kl["low"] <= kl["value"] <= kl["high"]
    assert card["fidelity.kl"]["teacher"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert card["fidelity.top1"]["teacher"]["value"] == 1.0
    assert card["fidelity.kl"]["healed"]["value"] < card["fidelity.kl"]["cut"]["value"]
    assert len(read_json(finished.folder / "evaluate" / "samples.json")) == 2


def test_a_second_run_does_nothing(finished: Run, place: Path) -> None:
    before, said = stage_files(finished.folder), Listening()
    pipeline.run_all(open_here(place, finished.folder, said))
    assert stage_files(finished.folder) == before
    assert not said.lines


def test_the_other_road_arrives_as_well(place: Path) -> None:
    """Nothing held out, the topk format, layers evenly and unhealed, a falling temperature, a time budget."""
    other = RECIPE.replace("held_out_share = 0.25", "").replace("[signals]", '[signals]\nformat = "topk"\nk = 16')
    other = other.replace("[prune]", '[prune]\nchoose = "even"\nheal = false').replace("epochs = 2", OTHER_TRAINING)
    other = other.replace('types = ["F16", "Q8_0"]', 'types = ["Q8_0"]').replace("\nsamples = 2", "\nsamples = 0")
    (place / "other.toml").write_text(other, encoding="utf-8")
    run = Run(place / "other", load_recipe(place / "other.toml"), place / "home", Listening())
    pipeline.run_all(run)
    card = read_json(run.folder / "evaluate" / "scorecard.json")
    assert set(card["speed.decode_tok_s"]) == {"teacher", "student"}
    assert set(card["fidelity.kl"]) == {"student"}
    assert card["fidelity.kl"]["student"]["note"] == "nothing is held out"
    assert "fidelity: not measured, nothing is held out" in run.progress.lines  # type: ignore[attr-defined]
    assert read_json(run.folder / "prune" / "report.json")["healed"] is False
    progress = [
        json.loads(line)["progress"] for line in (run.folder / "distill" / "log.jsonl").read_text().splitlines()
    ]
    assert progress[-1] > 0.5
    assert (run.folder / "report" / "report.html").exists()


def test_evaluated_again_from_nothing_the_quality_scores_are_the_same(finished: Run, place: Path) -> None:
    folder = copy_up_to(finished.folder, "evaluate", place / "again")
    run = Run(folder, finished.recipe, place / "another-home", Listening())
    pipeline.run_stage(run, "evaluate")
    cards = [read_json(one / "evaluate" / "scorecard.json") for one in (finished.folder, folder)]
    timed = ("speed", "memory", "stream.gap", "stream.characters", "energy")
    first, second = ({name: row for name, row in card.items() if not name.startswith(timed)} for card in cards)
    assert first == second
    assert len(list((run.home / "replies").glob("*.jsonl"))) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.parametrize("stage", KILLS)
def test_killed_and_resumed_is_never_killed(finished: Run, place: Path, stage: str) -> None:
    folder = copy_up_to(finished.folder, stage, place / f"killed-in-{stage}")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["potstill.distill.trainer", "potstill.models.gguf"])
    process = context.Process(target=work_until_killed, args=(place, folder, stage))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (folder / f"{stage}.partial").is_dir() and not (folder / stage).exists()
    assert stage != "distill" or newest_checkpoint(folder / "distill.partial")
    survived = survivors(folder / f"{stage}.partial", stage)
    pipeline.run_stage(open_here(place, folder, Listening()), stage)
    assert not (folder / f"{stage}.partial").exists()
    assert survived.items() <= survivors(folder / stage, stage).items()
    compare(finished.folder / stage, folder / stage, stage)
    made_with = Run(folder, finished.recipe).manifest()[stage]["fingerprint"]
    assert made_with == finished.manifest()[stage]["fingerprint"]


def copy_up_to(source: Path, stage: str, target: Path) -> Path:
    """A run folder in which every stage before this one is done."""
    done = [one.name for one in pipeline.STAGES][: list(KILLS).index(stage)]
    target.mkdir()
    for name in done:
        shutil.copytree(source / name, target / name)
    manifest = read_json(source / "manifest.json")
    stages = {name: manifest["stages"][name] for name in done}
    write_json(target / "manifest.json", {**manifest, "stages": stages})
    return target


def survivors(folder: Path, stage: str) -> dict[str, int]:
    """Files that a resumed stage keeps, with the time they were written."""
    if stage not in SURVIVES:
        return {}
    found = {path.name: path.stat().st_mtime_ns for path in folder.glob(SURVIVES[stage])}
    assert found
    return found


def compare(expected: Path, found: Path, stage: str) -> None:
    """The resumed stage's artefacts beside those of the run nobody killed."""
    names = [path.relative_to(expected) for pattern in SAME.get(stage, ()) for path in expected.glob(pattern)]
    files = [name for name in names if (expected / name).is_file()]
    assert files or stage == "distill"
    for name in files:
        assert content(found / name) == content(expected / name), name
    if stage == "answers":
        assert read_json(found / "report.json")["origin"]["written_before"] == 1
    if stage == "distill":
        compare_training(expected, found)
    if stage == "evaluate":
        ours, theirs = read_json(found / "scorecard.json"), read_json(expected / "scorecard.json")
        assert {metric: set(row) for metric, row in ours.items()} == {
            metric: set(row) for metric, row in theirs.items()
        }


def content(file: Path) -> object:
    """What a file holds."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        raw = {
            name: (str(one.dtype), tuple(one.shape), one.contiguous().flatten().view(torch.uint8).numpy().tobytes())
            for name, one in tensors.items()
        }
        return opened.metadata(), raw


def compare_training(expected: Path, found: Path) -> None:
    """The same steps, the same losses, the same weights but for rounding."""
    theirs, ours = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (expected, found)
    )
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert len(ours) > KILLS["distill"][1]
    for part in ("loss", "forward_kl", "hidden_2_3"):
        assert [line[part] for line in ours] == pytest.approx([line[part] for line in theirs], rel=1e-5)
    with (
        safe_open(expected / "student" / "model.safetensors", framework="np") as one,
        safe_open(found / "student" / "model.safetensors", framework="np") as other,
    ):
        assert one.metadata() == other.metadata()
        for name in one.keys():  # noqa: SIM118
            assert other.get_tensor(name) == pytest.approx(one.get_tensor(name), rel=2e-3, abs=1e-6), (
                name
            )  # a float16 step
