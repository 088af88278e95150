"""Packs made from a run: what lies in them, what they say, what they weigh."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from finished_pack_run import build_run

from potstill.models.engine import Engine, default_threads
from potstill.models.gguf_adapter import adapter_path
from potstill.models.gguf_reader import read_metadata
from potstill.pack import KINDS, build, pack, read_manifest
from potstill.pack.build import Exported, choose
from potstill.pack.build import exported as exported_files
from potstill.pack.guides import modelfile
from potstill.pack.runtime import NAME, VERSION, WHEELS
from potstill.problem import Problem
from potstill.recipe import AnswersSection
from potstill.run import Run, read_json, write_json

FILES = {"manifest.json", "MODEL_CARD.md", "RUN.md", "Modelfile", "LICENSE"}
ANSWERS = AnswersSection.model_validate({})


def test_two_quantisations_of_one_student(packs: dict[str, Path]) -> None:
    assert {kind: path.name for kind, path in packs.items()} == {
        "base": "tiny-rice-base-1", "pro": "tiny-rice-pro-1",
    }  # fmt: skip
    manifests = {kind: read_manifest(path) for kind, path in packs.items()}
    assert {kind: one.quantisation for kind, one in manifests.items()} == {"base": "Q4_0", "pro": "Q8_0"}
    assert manifests["base"].bytes < manifests["pro"].bytes
    for kind, path in packs.items():
        assert {file.name for file in path.iterdir()} == FILES | {manifests[kind].model}


def test_the_manifest_tells_where_the_model_comes_from(packs: dict[str, Path]) -> None:
    for kind, folder in packs.items():
        manifest = read_manifest(folder)
        for file in manifest.files:
            content = (folder / file.name).read_bytes()
            assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert (manifest.kind, manifest.fingerprint) == (kind, "e" * 16)
        assert manifest.teacher.name == "qwen2.5-coder-0.5b-instruct"
        assert manifest.teacher.licence == "Apache-2.0" and manifest.teacher.sha256 == "1d96" * 16
        assert manifest.made["recipe"]["name"] == "tiny rice"
        assert set(manifest.made["stages"]) == {"export", "evaluate"}
        assert manifest.made["versions"] == {"potstill": "0.1.0"}
        assert "/home/somebody" not in (folder / "manifest.json").read_text()  # nobody's folders are published


def test_the_licence_is_whole(packs: dict[str, Path]) -> None:
    text = (packs["base"] / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


def test_another_licence_needs_its_text(tiny_checkpoint: Path, tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", tiny_checkpoint, ("Q8_0",), **{"general.license": "mit"})
    with pytest.raises(Problem, match="'mit', whose text"):
        pack(run, tmp_path / "out", ["base"])
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "MIT.txt").write_text("Permission is hereby granted …")
    [folder] = pack(run, tmp_path / "out", ["base"], licence=tmp_path / "MIT.txt")
    assert "hereby granted" in (folder / "LICENSE").read_text()
    with pytest.raises(Problem, match="can't be read"):
        pack(run, tmp_path / "out", ["base"], licence=tmp_path / "absent.txt")


def test_sizes_count_the_wheel_and_are_held_against_the_limit(
    finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(finished_run.progress, "say", said.append)
    monkeypatch.setattr(build, "LIMIT_MB", {"base": max(WHEELS.values()) / 1e6 + 0.1, "pro": 320.0})
    base, pro = pack(finished_run, tmp_path)

    for folder, within in ((base, False), (pro, True)):
        size = read_manifest(folder).size
        listed = sum(path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json")
        assert size.files_bytes == listed
        assert size.total_bytes == listed + max(WHEELS.values())
        assert size.within is within
    assert "OVER its limit" in said[0] and "within its limit of 320 MB" in said[1]


def test_the_wheel_that_is_counted_is_the_one_that_is_required() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'"{NAME}=={VERSION}"' in project
    assert all(5e6 < size < 120e6 for size in WHEELS.values())


def exported(**sizes: int) -> list[Exported]:
    return sorted(
        (Exported(Path(f"{kind}.gguf"), kind, size * 10**6) for kind, size in sizes.items()), key=lambda one: one.bytes
    )


@pytest.mark.parametrize(
    ("sizes", "pro"),
    [
        ({"F16": 301, "Q8_0": 160, "Q4_0": 85}, "Q8_0"),  # F16 would be larger for nothing
        ({"Q8_0": 160, "Q6_K": 130, "Q4_0": 85}, "Q8_0"),
        ({"Q8_0": 310, "Q6_K": 240, "Q4_0": 150}, "Q6_K"),  # Q8_0 and the wheel are over the limit
        ({"Q8_0": 900, "Q6_K": 700, "Q4_0": 500}, "Q6_K"),  # none keeps it: the smallest of them
        ({"F16": 301, "Q4_0": 85}, "F16"),
    ],
)
def test_pro_is_the_largest_quantised_file_that_keeps_its_limit(sizes: dict[str, int], pro: str) -> None:
    chosen = choose(exported(**sizes), KINDS, 36 * 10**6)
    assert (chosen["base"].quantisation, chosen["pro"].quantisation) == ("Q4_0", pro)


def test_one_file_is_no_two_packs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", tiny_checkpoint, ("Q8_0",))
    with pytest.raises(Problem, match="exported Q8_0 alone"):
        pack(run, tmp_path / "out")
    assert [path.name for path in pack(run, tmp_path / "out", ["base"])] == ["tiny-rice-base-1"]


def test_a_file_that_needs_its_guard_is_not_packed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Who opens a pack's GGUF in Ollama has that one file."""
    run = build_run(tmp_path / "run", tiny_checkpoint)
    smallest, *others = (file.path for file in exported_files(run))
    adapter_path(smallest).write_bytes(b"an adapter")
    assert [file.path for file in exported_files(run)] == others
    for path in others:
        adapter_path(path).write_bytes(b"an adapter")
    with pytest.raises(Problem, match="symbol guard"):
        pack(run, tmp_path / "packs")


def test_a_chosen_mix_is_named_by_what_it_holds(tiny_checkpoint: Path, tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", tiny_checkpoint)
    report = read_json(run.stage("export") / "report.json")
    report["files"][-1] |= {"type": "chosen", "mix": "Q4_0-embedding-Q8_0"}
    write_json(run.stage("export") / "report.json", report)
    asked = run.recipe.export.model_copy(update={"ship": "chosen", "max_kl": 0.1})
    run = replace(run, recipe=run.recipe.model_copy(update={"export": asked}))
    (folder,) = pack(run, tmp_path / "packs", ["base"])
    assert read_manifest(folder).quantisation == "Q4_0-embedding-Q8_0"
    assert (folder / "tiny-rice-Q4_0-embedding-Q8_0.gguf").is_file()
    assert "131" in (folder / "MODEL_CARD.md").read_text()  # the scorecard's "student" is this file


def test_nothing_half_made_is_left_under_a_packs_name(
    finished_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(build, "model_card", fail)
        with pytest.raises(OSError, match="No space"):
            pack(finished_run, tmp_path, ["base"])
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-rice-base-1.partial"]
    assert [path.name for path in pack(finished_run, tmp_path, ["base"], version="1")] == ["tiny-rice-base-1"]
    (tmp_path / "tiny-rice-base-1" / "stray").touch()
    pack(finished_run, tmp_path, ["base"])  # a pack of the same name is replaced as a whole
    assert not (tmp_path / "tiny-rice-base-1" / "stray").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-rice-base-1"]


@pytest.mark.parametrize("version", ["../1", "a/b", "1:2", ""])
def test_a_version_is_part_of_a_folders_name(finished_run: Run, tmp_path: Path, version: str) -> None:
    with pytest.raises(Problem, match="can't name a pack"):
        pack(finished_run, tmp_path / "in" / "out", ["base"], version=version)
    assert [path.name for path in (tmp_path / "in").rglob("*.gguf")] == []


def test_a_run_without_an_export_is_a_problem(finished_run: Run, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="export"):
        pack(Run(tmp_path / "other", finished_run.recipe), tmp_path / "out")


@pytest.mark.parametrize("again", ["export", "distill"])
def test_a_scorecard_of_an_earlier_student_ships_with_nobody(tiny_checkpoint: Path, tmp_path: Path, again: str) -> None:
    run = build_run(tmp_path / "run", tiny_checkpoint)
    manifest = read_json(run.folder / "manifest.json")
    manifest["stages"].setdefault("distill", {"content": "one"})
    manifest["stages"][again] |= {"content": "another"}
    write_json(run.folder / "manifest.json", manifest)
    late = "evaluate" if again == "export" else "export"
    with pytest.raises(Problem, match=f"`{late}` is of an earlier student.*potstill {late}"):
        pack(run, tmp_path / "packs", ["base"])
    assert not list(tmp_path.rglob("MODEL_CARD.md"))


def front_matter(card: str) -> dict[str, str]:
    lines = card.split("---\n")[1].splitlines()
    return dict(line.split(": ", 1) for line in lines)


def test_the_card_says_what_was_measured_in_both_languages(packs: dict[str, Path]) -> None:
    card = (packs["base"] / "MODEL_CARD.md").read_text()

    assert front_matter(card)["license"] == "apache-2.0"
    assert front_matter(card)["base_model"] == "qwen2.5-coder-0.5b-instruct"
    english, chinese = card.split("\n# 中文\n")
    assert "| Top-1 agreement | 52.3% (50.0% – 54.0%), n=40 |" in english
    assert "| 首选一致率 | 52.3%（50.0% – 54.0%），n=40 |" in chinese
    assert "| Decode | 131 tokens/s (126 tokens" not in english  # the unit once, behind the value
    assert "149.8M parameters" in english and "149.8M 参数" in chinese
    assert "pass is 8.0% (3.0% – 19.0%), n=50" in english and "8.0%（3.0% – 19.0%）" in chinese
    assert "Missed" in english and "未达到" in chinese  # the gate
    assert "Naturalness" not in english  # nobody has rated it: no row of dashes
    assert "None" not in card and "{{" not in card
    assert not re.search(r"\n{3,}", card)


def test_the_card_of_another_file_shows_its_own_column(packs: dict[str, Path]) -> None:
    card = (packs["pro"] / "MODEL_CARD.md").read_text()
    assert "| measure | this file (Q8_0) | Student (Q4_0) | Teacher |" in card
    assert "| Top-1 agreement | 53.1% (51.0% – 55.0%), n=40 | 52.3% (50.0% – 54.0%), n=40 |" in card
    assert "| Decode | – | 131 tokens/s (126 – 136), n=3 |" in card


def test_a_run_without_a_scorecard_says_so(finished_run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run.folder, folder)
    shutil.rmtree(folder / "evaluate")
    [made] = pack(Run(folder, finished_run.recipe), tmp_path / "out", ["base"])
    card = (made / "MODEL_CARD.md").read_text()
    assert "has not been evaluated" in card and "未经评测" in card and "Code: not measured" in card


def test_the_guide_names_the_file_and_covers_every_place(packs: dict[str, Path]) -> None:
    guide = (packs["base"] / "RUN.md").read_text()
    for place in (
        "llama.cpp",
        "Ollama",
        "LM Studio",
        "Raspberry Pi",
        "Windows",
        "termux",
        "AVX2",
        "macOS",
        "potstill device tiny-rice-base-1",
    ):
        assert place in guide
    commands = [line for line in guide.splitlines() if line.startswith(("llama-cli -m", "llama-server -m"))]
    assert len(commands) == 3  # llama.cpp twice, termux; Windows has its own
    for command in commands:
        assert "-m tiny-rice-Q4_0.gguf -c 512 --temp 0.7 --top-p 0.8 --top-k 20 --repeat-penalty 1.1" in command
    assert "{{" not in guide and "{%" not in guide


def test_the_guides_program_runs(
    packs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    guide = (packs["base"] / "RUN.md").read_text()
    program = guide.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(packs["base"])

    exec(compile(program, "ask.py", "exec"), {})

    assert len(capfd.readouterr().out.strip()) > 0


def test_the_modelfile_writes_what_the_models_own_template_writes(packs: dict[str, Path]) -> None:
    path = packs["base"] / "tiny-rice-Q4_0.gguf"
    text = (packs["base"] / "Modelfile").read_text()
    assert "FROM ./tiny-rice-Q4_0.gguf" in text and "PARAMETER num_ctx 512" in text
    template = text.split('TEMPLATE """')[1].split('"""')[0]
    conversation = [
        {"role": role, "content": text} for role, text in (("user", "你好"), ("assistant", "好"), ("user", "再见"))
    ]
    with Engine(path, context=64, slots=1, threads=default_threads(1)) as engine:
        assert go_template(template, conversation, "") == engine.render(conversation)
        system = [{"role": "system", "content": "S"}, *conversation]
        assert go_template(template, system, "S") == engine.render(system)


def go_template(template: str, conversation: list[dict[str, str]], system: str) -> str:
    """As much of Go's text/template as the Modelfile uses."""
    head, rest = template.split("{{ range .Messages }}")
    body, tail = rest.rsplit("{{ end }}{{ end }}", 1)
    body = body.removeprefix('{{ if ne .Role "system" }}')
    opening = head.removeprefix("{{ if .System }}").removesuffix("{{ end }}").replace("{{ .System }}", system)
    turns = [
        body.replace("{{ .Role }}", turn["role"]).replace("{{ .Content }}", turn["content"])
        for turn in conversation
        if turn["role"] != "system"
    ]
    return (opening if system else "") + "".join(turns) + tail


QWEN = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def test_the_default_system_line_of_a_template_is_kept() -> None:
    text = modelfile("a.gguf", {"tokenizer.chat_template": QWEN}, ANSWERS, 512)
    assert 'SYSTEM """You are Qwen."""' in text and 'PARAMETER stop "<|im_end|>"' in text


@pytest.mark.parametrize(
    "template", ["", "{{ broken", "{{ raise_exception('no') }}", "<user>{{ messages[0].content }}"]
)
def test_other_templates_are_left_to_the_file(template: str) -> None:
    text = modelfile("a.gguf", {"tokenizer.chat_template": template}, ANSWERS, 512)
    assert "TEMPLATE" not in text and "im_end" not in text and "FROM ./a.gguf" in text


def test_the_model_inside_keeps_its_template(packs: dict[str, Path]) -> None:
    for path in packs.values():
        assert "im_start" in str(read_metadata(path / read_manifest(path).model)["tokenizer.chat_template"])
    json.loads((packs["base"] / "manifest.json").read_text())
