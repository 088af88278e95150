"""The command line: exit codes, one clear line for bad input, nothing heavy for --help."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from safetensors import SafetensorError
from typer.testing import CliRunner

from potstill import __version__, cli, pipeline, serve
from potstill.problem import Problem
from potstill.recipe import Recipe
from potstill.run import Run, write_json

VERBS = {
    "run", "check", "schema", "teachers", "status", "prompts", "answers", "vocab", "signals", "prune", "distill",
    "export", "evaluate", "report", "chat", "serve", "pack", "install", "soak", "compare", "device", "fit", "ladder",
}  # fmt: skip


def type_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `potstill words`, as the entry point gives them."""
    monkeypatch.setattr(sys, "argv", ["potstill", *map(str, words)])
    try:
        cli.main()
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty POTSTILL_HOME, and a working folder nobody minds."""
    monkeypatch.setenv("POTSTILL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe_file(folder: Path, text: str = "") -> Path:
    path = folder / "r.toml"
    path.write_text(f'name = "x"\n{text}', encoding="utf-8")
    return path


def test_help_names_every_verb_and_shows_examples() -> None:
    runner = CliRunner()
    listed = runner.invoke(cli.app, ["--help"])
    assert listed.exit_code == 0
    assert all(f" {verb} " in listed.output for verb in VERBS)
    for verb in VERBS:
        assert "Example:" in runner.invoke(cli.app, [verb, "--help"]).output, verb


def test_every_stage_is_a_verb() -> None:
    assert {stage.name for stage in pipeline.STAGES} <= VERBS


@pytest.mark.parametrize(
    "code", ["import potstill.cli", "import sys; sys.argv = ['potstill', '--help']; import potstill.cli as c; c.app()"]
)
def test_help_loads_nothing_heavy(code: str) -> None:
    heavy = ("torch", "transformers", "xllamacpp", "numpy", "pydantic")
    look = f"import sys; print('HEAVY', [name for name in {heavy!r} if name in sys.modules])"
    script = f"import atexit\natexit.register(lambda: exec({look!r}, {{}}))\n{code}"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "HEAVY []" in found.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "none.toml"], "none.toml: no such file"),
        (["check", "none.toml"], "none.toml: no such file"),
        (["run", "broken.toml"], "not valid TOML"),
        (["check", "binary.toml"], "cannot be read"),
        (["run", "r.toml", "--budget", "soon"], "--budget soon is not a time"),
        (["run", "r.toml", "--budget", "-3m"], "is not a time"),
        (["run", "r.toml", "--budget", "nan"], "is not a time"),
        (["run", "unknown.toml"], "There is no teacher 'qwen2.5-coder-0.5b-instrukt' (nearest:"),
        (["run", "nofile.toml"], "none.jsonl: named in the recipe, but not there"),
        (["check", "nofile.toml"], "none.jsonl: named in the recipe, but not there"),
        (["status", "."], "is not a run folder"),
        (["distill", "nowhere"], "nowhere is not a run folder"),
        (["evaluate", "nowhere"], "is not a run folder"),
        (["report", "nowhere"], "is not a run folder"),
        (["signals", "nowhere", "--verify"], "is not a run folder"),
        (["chat", "."], ". is neither a run folder, a pack"),
        (["chat", "nowhere.gguf"], "nowhere.gguf is neither a run folder, a pack"),
        (["serve", "nowhere.gguf"], "nowhere.gguf is neither a run folder, a pack"),
        (["serve", "nowhere-base-2"], "nowhere-base-2 is neither a run folder, a pack"),
        (["serve", "noise.gguf"], "noise.gguf is not a GGUF file"),
        (["serve", "empty.gguf"], "empty.gguf is not a GGUF file"),
        (["serve", "header.gguf", "--host", "0.0.0.0"], "no API key is set"),
        (["serve", "noise.gguf", "--port", "99999"], "--port"),
        (["pack", "nowhere"], "is not a run folder"),
        (["install", "nowhere"], "nowhere"),
        (["soak", "noise.gguf"], "noise.gguf"),
        (["chat", "noise.gguf", "--once", "hi"], "noise.gguf is not a GGUF file"),
        (["chat", "empty.gguf", "--once", "hi"], "empty.gguf is not a GGUF file"),
    ],
)
def test_bad_input_gets_one_clear_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    from potstill import check, machine

    monkeypatch.setattr(check, "disk_free_mb", lambda _: 1e9)
    monkeypatch.setattr(check, "available_memory_mb", lambda: 1e9)
    quick = machine.Machine(2, 1e9, 1e9, 100.0, 100.0, 10.0)
    monkeypatch.setattr(machine, "probe", lambda *_: quick)
    recipe_file(home)
    (home / "broken.toml").write_text('name = "x')
    (home / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (home / "unknown.toml").write_text('name = "x"\n[teacher]\nmodel = "qwen2.5-coder-0.5b-instrukt"\n')
    (home / "nofile.toml").write_text('name = "x"\n[[prompts.files]]\npath = "none.jsonl"\n')
    (home / "noise.gguf").write_bytes(os.urandom(5000))
    (home / "empty.gguf").write_bytes(b"")
    (home / "header.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))  # no tensors, no keys
    code, _, error = type_in(monkeypatch, capsys, *words)
    assert code == 1, error
    assert said in error and error.startswith("potstill: ")
    assert len(error.splitlines()) == 1


def test_a_server_is_told_only_what_was_typed(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[serve.Settings] = []
    monkeypatch.setattr(serve, "serve", lambda _, settings, say: served.append(settings))

    assert type_in(monkeypatch, capsys, "serve", "x")[0] == 0
    assert type_in(monkeypatch, capsys, "serve", "x", "--port", 0, "--slots", 3, "--allowed-host", "a.example")[0] == 0

    assert served == [serve.Settings(), serve.Settings(port=0, slots=3, allowed_hosts=("a.example",))]
    assert served[0].model_fields_set <= {"allowed_hosts", "log_text"}
    verb = typer.main.get_command(cli.app).commands["serve"]  # type: ignore[attr-defined]
    told = {option.name: option.help for option in verb.params}
    for name in ("host", "port", "slots"):
        assert f"{serve.Settings.model_fields[name].default} if not given" in told[name]


@pytest.mark.parametrize("words", [["destill", "x"], ["run"], ["chat", "x", "--threads", "many"], ["run", "a", "b"]])
def test_usage_mistakes_exit_with_2(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    code, _, error = type_in(monkeypatch, capsys, *words)
    assert code == 2 and "Traceback" not in error and error


def test_every_mistake_of_a_recipe_is_printed(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe_file(home, "[vocab]\nsise = 3\n[distill]\nepochs = -1\n")
    code, _, error = type_in(monkeypatch, capsys, "check", path)
    assert code == 1 and "2 mistakes" in error and "vocab.sise" in error and "distill.epochs" in error


def test_ctrl_c_says_how_to_go_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_all", stop)
    monkeypatch.setattr(cli, "refuse_what_cannot_fit", lambda *_: None)
    code, _, error = type_in(monkeypatch, capsys, "run", recipe_file(home))
    assert code == 130 and "goes on where it was" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (SafetensorError("Error while serializing: I/O error (os error 28)"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/sys/x"), "/sys/x: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/boot/runs"), "/boot/runs: Read-only file system"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
    ],
)
def test_what_the_system_refuses_is_told_in_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, words: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "run_all", refuse)
    monkeypatch.setattr(cli, "refuse_what_cannot_fit", lambda *_: None)
    code, _, said = type_in(monkeypatch, capsys, "run", recipe_file(home))
    assert code == 1 and words in said and "Traceback" not in said


@pytest.mark.parametrize("mistake", [ZeroDivisionError("ours"), OSError(errno.EACCES, "of no file"), KeyError("x")])
def test_a_mistake_of_ours_is_shown_whole(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mistake: Exception
) -> None:
    def fail(*_: object) -> None:
        raise mistake

    monkeypatch.setattr(pipeline, "run_all", fail)
    monkeypatch.setattr(cli, "refuse_what_cannot_fit", lambda *_: None)
    with pytest.raises(type(mistake)):
        type_in(monkeypatch, capsys, "run", recipe_file(home))


def test_a_folder_that_is_a_file_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "refuse_what_cannot_fit", lambda *_: None)
    (home / "taken").write_text("not a folder")
    code, _, said = type_in(monkeypatch, capsys, "run", recipe_file(home), "--run", home / "taken")
    assert code == 1 and "taken" in said and "Traceback" not in said


def test_a_console_of_another_encoding_ends_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="gbk", write_through=True))
    cli.write_what_can_be_written()
    sys.stdout.write("你好 😀")
    assert raw.getvalue().decode("gbk") == "你好 ?"


def test_on_windows_one_line_says_where_to_go(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.sys, "platform", "win32")
    code, _, said = type_in(monkeypatch, capsys, "check", recipe_file(home))
    assert code == 1 and "WSL" in said and len(said.splitlines()) == 1


def test_a_run_may_stop_behind_a_stage(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str | None] = []
    from potstill import machine

    monkeypatch.setattr(machine, "probe", lambda *_: machine.Machine(2, 1e9, 1e9, 10.0, 10.0, 10.0))
    monkeypatch.setattr(pipeline, "run_all", lambda _, until: asked.append(until))
    monkeypatch.setattr(cli, "refuse_what_cannot_fit", lambda *_: None)
    code, out, error = type_in(monkeypatch, capsys, "run", recipe_file(home), "--until", "vocab")
    assert (code, asked) == (0, ["vocab"]) and "done as far as vocab" in out and "on this machine: " in error
    code, _, error = type_in(monkeypatch, capsys, "run", recipe_file(home), "--until", "vocabulary")
    assert code == 1 and "There is no stage 'vocabulary'" in error


def test_other_types_are_exported_when_asked_for(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, asked = Run(home / "run", Recipe(name="x"), home / "home"), []
    run.keep_recipe()
    monkeypatch.setattr(pipeline, "run_stage", lambda opened, _: asked.append(opened.recipe.export))
    code, _, error = type_in(monkeypatch, capsys, "export", run.folder, "--type", "Q4_0", "--type", "Q8_0")
    assert code == 0, error
    assert (asked[0].types, asked[0].ship) == (("Q4_0", "Q8_0"), "Q4_0")


def test_what_is_finished_needs_no_room(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise Problem("no room", "Free some.")

    monkeypatch.setattr(cli, "refuse_what_cannot_fit", refuse)
    monkeypatch.setattr(pipeline, "run_all", lambda *_: None)
    monkeypatch.setattr(cli, "_show_scorecard", lambda *_, **__: None)
    assert type_in(monkeypatch, capsys, "run", recipe_file(home))[0] == 1
    finished = [pipeline.StageState(stage.name, "done", {}) for stage in pipeline.STAGES]
    monkeypatch.setattr(pipeline, "states", lambda _: iter(finished))
    assert type_in(monkeypatch, capsys, "run", recipe_file(home))[0] == 0


def test_a_run_ends_with_scorecard_report_and_chat(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Run] = []

    def work(run: Run, until: str | None) -> None:
        seen.append(run)
        (run.folder / "evaluate").mkdir(parents=True)
        row = {"value": 1.5, "n": 40, "low": 1.4, "high": 1.6, "unit": "nats"}
        size = {"value": 85.0, "n": 1, "low": None, "high": None, "unit": "MB"}
        card = {"fidelity.kl": {"student": row}, "size.file_mb": {"student": size, "teacher": size}}
        write_json(run.folder / "evaluate" / "scorecard.json", card)

    monkeypatch.setattr(pipeline, "run_all", work)
    monkeypatch.setattr(cli, "refuse_what_cannot_fit", lambda *_: None)
    code, out, error = type_in(monkeypatch, capsys, "run", recipe_file(home), "--run", "here", "--budget", "90s")
    assert code == 0, error
    assert seen[0].folder == Path("here") and seen[0].recipe.distill.budget_minutes == 1.5
    assert "1.5 [1.4–1.6]" in out and "nats" in out and "here/report/report.html" in out and "potstill chat here" in out


@pytest.mark.parametrize(
    ("value", "low", "high", "code", "said"),
    [
        (0.9, 0.85, 0.95, 0, "code.runs: met"),
        (0.2, 0.1, 0.3, 2, "code.runs: missed"),
        (0.52, 0.4, 0.6, 3, "code.runs: undecided"),
    ],
)
def test_a_gate_decides_the_exit_code(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    value: float, low: float, high: float, code: int, said: str,
) -> None:  # fmt: skip
    run = Run(home / "run", Recipe(name="x", gates={"code.runs": ">= 0.5"}), home / "home")
    run.keep_recipe()
    (run.folder / "evaluate").mkdir()
    measure = {"value": value, "n": 50, "low": low, "high": high, "unit": "share"}
    write_json(run.folder / "evaluate" / "scorecard.json", {"code.runs": {"student": measure}})
    monkeypatch.setattr(pipeline, "states", lambda _: iter([pipeline.StageState("evaluate", "done", {})]))
    found, out, error = type_in(monkeypatch, capsys, "evaluate", run.folder, "--gate", "--json")
    assert found == code and said in error
    assert json.loads(out)["code.runs"]["student"]["n"] == 50


def test_answers_come_from_where_the_last_word_said(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, asked = Run(home / "run", Recipe(name="x"), home / "home"), []
    run.keep_recipe()

    def note(opened: Run, name: str, engine: str) -> None:
        asked.append((opened.recipe.answers.server, engine))
        opened.keep_recipe()

    monkeypatch.setattr(pipeline, "run_stage", note)
    server = "http://host:8000/v1"
    for words in ((), ("--engine", server), (), ("--engine", "ray"), ("--engine", server), ("--engine", "local"), ()):
        assert type_in(monkeypatch, capsys, "answers", run.folder, *words)[0] == 0
    assert asked == [
        (None, "local"),
        (server, "local"),
        (server, "local"),
        (None, "ray"),
        (server, "local"),
        (None, "local"),
        (None, "local"),
    ]


def test_evaluate_keeps_what_it_was_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(home / "run", Recipe(name="x"), home / "home")
    run.keep_recipe()
    (run.folder / "evaluate").mkdir()
    write_json(run.folder / "evaluate" / "scorecard.json", {})
    asked: list[Run] = []
    monkeypatch.setattr(pipeline, "run_stage", lambda opened, name: asked.append(opened))
    monkeypatch.setattr(pipeline, "states", lambda _: iter([pipeline.StageState("evaluate", "done", {})]))
    (home / "m.gguf").write_bytes(b"x")
    words = ("evaluate", run.folder, "--quick", "--against", "m.gguf", "--against", "smollm2-135m-instruct", "--unsafe")
    code, _, error = type_in(monkeypatch, capsys, *words)
    assert code == 0, error
    section = asked[0].recipe.evaluate
    assert not section.fresh
    assert section.few and section.against == (str(home / "m.gguf"), "smollm2-135m-instruct") and asked[0].unsafe
    assert section.sizes().rounds == 1 and section.sizes().code_tasks < section.code_tasks
    assert section.model_copy(update={"few": False}).sizes().rounds == section.rounds


def test_tables_come_as_json(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(home / "run", Recipe(name="x"), home / "home")
    run.keep_recipe()
    code, out, _ = type_in(monkeypatch, capsys, "status", run.folder, "--json")
    assert code == 0
    assert [row["stage"] for row in json.loads(out)] == [stage.name for stage in pipeline.STAGES]
    assert {row["state"] for row in json.loads(out)} == {"missing"}
    code, out, _ = type_in(monkeypatch, capsys, "teachers", "--json")
    assert code == 0 and "qwen2.5-coder-0.5b-instruct" in [row["name"] for row in json.loads(out)]
    code, out, _ = type_in(monkeypatch, capsys, "schema")
    assert code == 0 and json.loads(out)["properties"]["name"]["type"] == "string"


@pytest.mark.parametrize(("text", "value"), [("90s", 1.5), ("10m", 10.0), ("1.5h", 90.0), ("7", 7.0), (".5m", 0.5)])
def test_times_are_read(text: str, value: float) -> None:
    assert cli.minutes(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "m", "0", "-1m", "inf", "nan", "ten", "3d", "1h30m"])
def test_what_is_no_time_is_told(text: str) -> None:
    with pytest.raises(Problem, match="is not a time"):
        cli.minutes(text)


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert type_in(monkeypatch, capsys, "--version")[:2] == (0, f"potstill {__version__}\n")


def test_another_recipe_s_run_and_one_at_work_are_refused_before_any_forecast(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "refuse_what_cannot_fit", lambda *_: pytest.fail("too late"))
    other = Run(home / "other", Recipe(name="y"), home / "home")
    other.keep_recipe()
    code, _, said = type_in(monkeypatch, capsys, "run", recipe_file(home), "--run", other.folder)
    assert code == 1 and "is a run of the recipe 'y', not of 'x'. Give another --run" in said
    with other.alone():
        code, _, said = type_in(monkeypatch, capsys, "run", recipe_file(home), "--run", other.folder)
    assert code == 1 and "is in use by another potstill" in said


def test_what_will_be_replaced_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [pipeline.StageState(one.name, "stale" if one.name == "export" else "done", {}) for one in pipeline.STAGES]
    monkeypatch.setattr(pipeline, "states", lambda _: iter(found))
    monkeypatch.setattr(pipeline, "run_all", lambda *_: None)
    for name in ("refuse_what_cannot_fit", "say_what_it_takes", "_show_scorecard"):
        monkeypatch.setattr(cli, name, lambda *_, **__: None)
    code, out, said = type_in(monkeypatch, capsys, "run", recipe_file(home), "--run", home / "a run")
    assert code == 0 and "export was made otherwise and will be replaced; --run DIR keeps" in said.replace("\n", " ")
    assert f"potstill chat '{home / 'a run'}'" in out


def test_a_name_that_no_file_can_have_is_told_in_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = type_in(monkeypatch, capsys, "chat", "怎么把米饭煮得更香？" * 30)
    assert code == 1 and "Traceback" not in said and len(said.splitlines()) == 1
