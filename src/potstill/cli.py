"""The command line: arguments in, words for people out.

In:  what was typed.
Out: exit code 0 (done), 1 (something went wrong, one line says what), 2 (usage, or a gate was missed),
     3 (a gate is undecided), 130 (Ctrl-C).
Does not know: how anything is done. Heavy imports happen inside the verb that needs them.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from potstill import __version__
from potstill.cli_plan import minutes
from potstill.cli_plan import register as register_plan
from potstill.cli_shown import Json, progress, refuse_another_s_run, refuse_what_cannot_fit, show_table
from potstill.cli_use import register
from potstill.machine import bound_product_caches, bound_threads
from potstill.problem import Problem, what_the_system_refused

app = typer.Typer(
    help="Small-batch distillation: a 0.5B chat model becomes a small one that answers on a plain CPU.\n\n"
    "Start with:  potstill run recipes/demo.toml   then:  potstill chat runs/demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/demo.")]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/demo.toml.")]
INTERRUPTED = 130
"""What Typer makes of Ctrl-C."""


def main() -> None:
    """Entry point: every `Problem` becomes one line and exit code 1."""
    bound_product_caches()
    bound_threads()
    write_what_can_be_written()
    try:
        if sys.platform == "win32":
            raise Problem("potstill needs Linux or macOS", "On Windows, run it in WSL: wsl --install")
        app()
    except SystemExit as left:
        if left.code == INTERRUPTED:
            typer.echo("\npotstill: stopped. The same command goes on where it was.", err=True)
        raise
    except Exception as error:
        problem = error if isinstance(error, Problem) else what_the_system_refused(error)
        if problem is None:
            raise
        typer.echo(f"potstill: {problem}", err=True)
        sys.exit(1)


def write_what_can_be_written() -> None:
    """A console of another encoding (GBK, Latin-1) shows `?` for what it lacks, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"potstill {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """What all verbs share: nothing but this."""


@app.command()
def run(
    recipe: RecipeFile,
    run: Annotated[Path | None, typer.Option("--run", help="Run folder; runs/<recipe's name> if not given.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Training time, such as 10m or 1.5h; replaces distill.budget_minutes.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out prompts that cannot be read or are too long, and count them.")
    ] = False,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop behind this stage; without it, the command later goes on.")
    ] = None,
) -> None:
    """All stages of a recipe, one after the other; what is done already is skipped.

    Ctrl-C at any time; the same command goes on where it was.
    Example:  potstill run recipes/demo.toml --run runs/demo --budget 10m
    """
    from potstill import pipeline
    from potstill.distill import ranks
    from potstill.recipe import load_recipe, with_options
    from potstill.run import Run, default_home

    wanted = with_options(load_recipe(recipe), minutes(budget) if budget else None, skip_bad)
    folder = run or Path("runs") / wanted.name
    opened = Run(folder, wanted, default_home(), progress())
    ranks.refuse_several("run")
    refuse_another_s_run(opened)
    names = pipeline.names_until(until)
    found = {stage.name: stage.state for stage in pipeline.states(opened)}
    missing = {name: state for name, state in found.items() if name in names and state != "done"}
    if missing:
        refuse_what_cannot_fit(opened, [name for name, state in found.items() if state == "done"])
        say_what_it_takes(opened, missing)
    if stale := [name for name, state in missing.items() if state == "stale"]:
        was = "was" if len(stale) == 1 else "were"
        opened.progress.say(f"{', '.join(stale)} {was} made otherwise and will be replaced; --run DIR keeps {folder}")
    pipeline.run_all(opened, until)
    if names[-1] != "report":
        typer.echo(f"\n{folder}: done as far as {until}. The same command without --until does the rest.")
        return
    _show_scorecard(folder, as_json=False)
    typer.echo(f"\nReport:  {folder / 'report' / 'report.html'}\nChat:    {opened.command('chat')}")


def say_what_it_takes(opened: Any, missing: dict[str, str]) -> None:
    """The minutes that a run's missing stages will take here, as `check` predicts them; half a second of probing."""
    from potstill.check import announce
    from potstill.machine import probe

    for line in announce(opened.recipe, probe(0.5), opened.home, missing):
        opened.progress.say(line)


@app.command()
def check(recipe: RecipeFile, as_json: Json = False) -> None:
    """Validate a recipe and predict what it costs here: tokens, disk, memory, minutes (2 seconds of probing).

    Example:  potstill check recipes/demo.toml
    """
    from potstill.check import predict, refuse
    from potstill.machine import probe
    from potstill.recipe import load_recipe
    from potstill.run import default_home

    wanted = load_recipe(recipe)
    folder = Path("runs") / wanted.name
    rows = predict(wanted, probe(2.0, folder), default_home())
    show_table(f"{recipe}: valid. Predicted for this machine:", ["what", "how much", "of which"], rows, as_json)
    refuse(wanted, folder, default_home())


@app.command()
def schema() -> None:
    """The JSON schema of recipes, for editors.  Example:  potstill schema > recipe.schema.json"""
    from potstill.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=1, ensure_ascii=False))


@app.command()
def teachers(as_json: Json = False) -> None:
    """Teachers known by name, with licence and size. Hub repositories and local paths work as well.

    Example:  put  model = "qwen2.5-coder-0.5b-instruct"  under [teacher] in a recipe.
    """
    from potstill.models.catalogue import CATALOGUE
    from potstill.run import default_home

    rows = [
        [
            entry.name,
            entry.title,
            entry.licence,
            f"{entry.size / 1e6:.0f} MB",
            entry.language_note,
            "here" if (default_home() / "teachers" / entry.name / "checkpoint").exists() else "to be fetched",
        ]
        for entry in CATALOGUE
    ]
    show_table("Teachers", ["name", "title", "licence", "size", "languages", "state"], rows, as_json)


@app.command()
def status(run: RunFolder, as_json: Json = False) -> None:
    """Which stages are done, stale, partial or missing.  Example:  potstill status runs/demo"""
    from potstill import pipeline
    from potstill.run import open_run

    rows = []
    for stage in pipeline.states(open_run(run)):
        entry = stage.entry
        seconds = f"{entry['seconds']:.0f} s" if entry else ""
        memory = f"{entry['peak_memory_mb']} MB" if entry else ""
        rows.append([stage.name, stage.state, seconds, memory, str(entry.get("finished", ""))])
    show_table(str(run), ["stage", "state", "took", "peak memory", "finished"], rows, as_json)


def _stage_command(name: str, text: str) -> None:
    def command(run: RunFolder) -> None:
        from potstill import pipeline
        from potstill.run import open_run

        pipeline.run_stage(open_run(run, progress=progress()), name)

    app.command(name, help=f"{text}\n\nExample:  potstill {name} runs/demo")(command)


_stage_command("prompts", "Collect the prompts: golden, your own, the teacher's; duplicates and overlaps are dropped.")
_stage_command("vocab", "Choose the student's vocabulary, a merge-closed subset of the teacher's.")
_stage_command("prune", "Cut the student from the teacher and heal it in closed form.")
_stage_command("distill", "Train the student on the teacher's signals.")
_stage_command("report", "Write the report page.")


@app.command()
def answers(
    run: RunFolder,
    engine: Annotated[
        str | None,
        typer.Option(
            help="local, a server's address (http://host:8000/v1), or ray (a cluster: docs/cluster.md); "
            "if not given, as the run's recipe says."
        ),
    ] = None,
) -> None:
    """The teacher writes its answers (the shipped ones are used where they fit).

    Example:  potstill answers runs/demo --engine http://localhost:8000/v1
    """
    from potstill import pipeline
    from potstill.recipe import with_server
    from potstill.run import open_run

    opened = open_run(run, progress=progress())
    if engine is not None:
        server = engine if engine.startswith(("http://", "https://")) else None
        opened, engine = replace(opened, recipe=with_server(opened.recipe, server)), "local" if server else engine
    pipeline.run_stage(opened, "answers", engine=engine or "local")


@app.command()
def signals(
    run: RunFolder,
    engine: Annotated[str, typer.Option(help="Where: local, or ray (a cluster: docs/cluster.md).")] = "local",
    verify: Annotated[bool, typer.Option(help="Read random answers again and compare with the store.")] = False,
    positions: Annotated[int, typer.Option(help="Answer positions to compare, at least.")] = 500,
) -> None:
    """The teacher reads every answer, and what it thought is kept.

    Example:  potstill signals runs/demo --verify
    """
    from potstill import pipeline
    from potstill.run import open_run
    from potstill.signals import verify as verify_signals

    opened = open_run(run, progress=progress())
    if not verify:
        pipeline.run_stage(opened, "signals", engine=engine)
        return
    found = verify_signals(opened, positions)
    typer.echo(
        f"{found['positions']:.0f} positions read again: KL stored/fresh at T = {found['temperature']:g} mean "
        f"{found['mean_kl']:.5f}, largest {found['largest_kl']:.4f} nats"
    )


@app.command()
def export(
    run: RunFolder,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            help="Write this type (Q4_0, Q8_0 …) instead of the recipe's. May be repeated; what ships stays where it "
            "is among them, else it is the first.",
        ),
    ] = None,
    target_mb: Annotated[
        float | None, typer.Option(help="Choose the best mix of types, by measuring, that fits into this many MB.")
    ] = None,
    max_kl: Annotated[
        float | None, typer.Option(help="Choose the smallest mix that stays within this KL of the float student, nats.")
    ] = None,
) -> None:
    """Write the GGUF files and prove them equal to the student.

    Example:  potstill export runs/demo --type Q4_0   or:  potstill export runs/demo --target-mb 100
    """
    from potstill import pipeline
    from potstill.recipe import with_target, with_types
    from potstill.run import open_run

    if target_mb is not None and max_kl is not None:
        raise Problem("--target-mb and --max-kl ask for two different things", "Give one of them.")
    opened = open_run(run, progress=progress())
    if types:
        opened = replace(opened, recipe=with_types(opened.recipe, types))
    if target_mb is not None or max_kl is not None:
        opened = replace(opened, recipe=with_target(opened.recipe, target_mb, max_kl))
    pipeline.run_stage(opened, "export")


@app.command()
def evaluate(
    run: RunFolder,
    quick: Annotated[bool, typer.Option("--quick", help="Few items: under three minutes, wide intervals.")] = False,
    gate: Annotated[
        bool, typer.Option("--gate", help="Judge by the recipe's [gates]; a finished scorecard is not measured again.")
    ] = False,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Score this model beside: a GGUF, or a name of `potstill teachers`. May be repeated."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ask every model anew, whatever ships with potstill or was kept.")
    ] = False,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Run model-written programs WITHOUT a sandbox where there can be none.")
    ] = False,
    lm_eval: Annotated[
        str | None, typer.Option(metavar="TASKS", help="Run these tasks of lm-evaluation-harness instead: a,b,c.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the scorecard, teacher beside student, on the GGUF that ships.

    With --gate the exit code is 0 where every gate is met, 2 where one is missed, 3 where one is undecided.
    Example:  potstill evaluate runs/demo --against smollm2-135m-instruct
    """
    from potstill import pipeline
    from potstill.recipe import with_evaluation
    from potstill.run import open_run

    opened = open_run(run, progress=progress())
    if lm_eval:
        if gate:
            raise Problem("--lm-eval measures nothing that a gate judges", "Run the two one after the other.")
        _show_harness(opened, lm_eval.split(","), as_json)
        return
    done = next(stage.state for stage in pipeline.states(opened) if stage.name == "evaluate") == "done"
    if not (gate and done) or quick or fresh or against or unsafe:
        others = [str(Path(one).resolve()) if Path(one).exists() else one for one in against or ()]
        opened = replace(opened, recipe=with_evaluation(opened.recipe, quick, fresh, others), unsafe=unsafe)
        pipeline.run_stage(opened, "evaluate")
    _show_scorecard(run, as_json)
    if gate:
        raise typer.Exit(_show_verdict(opened))


register(app)
register_plan(app)


def _show_scorecard(run: Path, as_json: bool) -> None:
    from potstill.run import read_json
    from potstill.tables import scorecard_tables, setbacks

    card = read_json(run / "evaluate" / "scorecard.json")
    if as_json:
        typer.echo(json.dumps(card, ensure_ascii=False, indent=1))
        return
    for title, columns, rows in scorecard_tables(card):
        show_table(title, columns, rows)
    for line in setbacks(card):
        typer.echo(line, err=True)


def _show_verdict(opened: Any) -> int:
    """Judge the scorecard by the gates of the run's recipe; on stderr, so that --json stays JSON."""
    from potstill.evaluate.gates import exit_code, explain, judge
    from potstill.evaluate.scorecard import read_measures

    verdicts = judge(opened.recipe.gates, read_measures(opened.stage("evaluate") / "scorecard.json"))
    for verdict in verdicts:
        typer.echo(explain(verdict), err=True)
    return exit_code(verdicts)


def _show_harness(opened: Any, tasks: list[str], as_json: bool) -> None:
    from potstill.evaluate.harness import harness_scores

    scores = harness_scores(opened.stage("distill") / "student", [task.strip() for task in tasks if task.strip()])
    rows = [[task, metric, f"{value:.4g}"] for task, measured in scores.items() for metric, value in measured.items()]
    show_table("lm-evaluation-harness, the Transformers student", ["task", "metric", "value"], rows, as_json)
