"""The verbs for those who use a model rather than make one: chat, serve, compare, pack, install, device, soak.

In:  what was typed.
Out: commands on the app of `cli`.
Does not know: how anything is done. Heavy imports happen inside the verb that needs them.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from potstill.cli_shown import Json, progress, show_table

Model = Annotated[Path, typer.Argument(metavar="RUN|PACK|GGUF", help="A run folder, a pack (or its name), or a GGUF.")]

Marks = Annotated[
    str | None,
    typer.Option(help="Punctuation of Chinese text: full, half or keep. Full for packs, else as it is written."),
]
Adapter = Annotated[str | None, typer.Option(help="Begin with the model that has this adapter, such as code.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (chat, serve, compare, pack, install, device, soak):
        app.command()(verb)


def chat(
    model: Model,
    once: Annotated[str | None, typer.Option(help="Ask this one question, print the answer, leave.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that write; chosen by a short probe if not given.")
    ] = None,
    marks: Marks = None,
    adapter: Adapter = None,
) -> None:
    """Talk to a model in the terminal.  /reset forgets, /model teacher switches, /quit leaves.

    Example:  potstill chat runs/demo --once "怎么煮米饭？"
    """
    from typing import get_args

    from potstill.chat import Marks as Choice
    from potstill.chat import talk
    from potstill.problem import Problem

    if marks is not None and marks not in get_args(Choice):
        raise Problem(f"--marks {marks}: there is no such choice", f"Choose from: {', '.join(get_args(Choice))}.")
    talk(model, once, threads, marks, adapter)  # type: ignore[arg-type]


def serve(
    model: Model,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on, 127.0.0.1 if not given; any but loopback needs --api-key."),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port, 8080 if not given; 0 takes any free one.")] = None,
    slots: Annotated[int | None, typer.Option(help="Answers written at the same time, 2 if not given.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="POTSTILL_API_KEY", help="Clients must send it as a bearer token.")
    ] = None,
    rating: Annotated[
        Path | None, typer.Option(metavar="TOML", help="Models and questions of a blind rating, for /operate.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="A name this server may be called by, beside localhost. May be repeated.")
    ] = None,
    log_text: Annotated[bool, typer.Option("--log-text", help="Write questions and answers into the log.")] = False,
    marks: Marks = None,
    adapter: Adapter = None,
) -> None:
    """A chat page at /, two models side by side at /compare, an OpenAI-compatible API at /v1, /health and /metrics.

    Example:  potstill serve runs/demo --port 8080
    """
    from potstill.serve import serve as run_server

    given = {
        **{"host": host, "port": port, "slots": slots, "api_key": api_key, "rating": rating},
        **{"allowed_hosts": tuple(allowed_host or ()), "log_text": log_text, "marks": marks},
        "adapter": adapter,
    }
    run_server(model, _server_settings(given), typer.echo)


def _server_settings(given: dict[str, Any]) -> Any:
    """Settings of a server; what is None has their default. Raises: Problem for a value that is not allowed."""
    from pydantic import ValidationError

    from potstill.problem import Problem
    from potstill.serve import Settings

    try:
        return Settings.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        told = "; ".join(f"--{mistake['loc'][0]}: {mistake['msg']}" for mistake in error.errors())
        raise Problem(told.replace("_", "-"), "See potstill serve --help.") from None


def pack(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    out: Annotated[Path, typer.Option(help="Folder to put the packs in.")] = Path("packs"),
    kind: Annotated[list[str] | None, typer.Option(help="base or pro; both if not given.")] = None,
    version: Annotated[str, typer.Option(help="Version, part of the packs' names.")] = "1",
    licence: Annotated[Path | None, typer.Option(help="Licence text, where the teacher's is not Apache-2.0.")] = None,
    pro: Annotated[
        str, typer.Option(help="What pro has over base: a larger file (quantised) or an adapter on the same (adapter).")
    ] = "quantised",
) -> None:
    """What a stranger needs: the GGUF, a manifest with hashes, a model card with the scorecard, how to run it.

    Base holds the smallest exported file, pro the largest quantised one within its limit, whichever of them ships.
    Example:  potstill pack runs/demo --out packs
    """
    from typing import get_args

    from potstill.pack import KINDS, Pro
    from potstill.pack import pack as make
    from potstill.problem import Problem
    from potstill.run import open_run

    unknown = [one for one in kind or () if one not in KINDS]
    if unknown:
        raise Problem(f"--kind {unknown[0]}: there is no such pack", f"Choose from: {', '.join(KINDS)}.")
    if pro not in get_args(Pro):
        raise Problem(f"--pro {pro}: there is no such way", f"Choose from: {', '.join(get_args(Pro))}.")
    kinds = [one for one in KINDS if not kind or one in kind]
    for folder in make(open_run(run, progress=progress()), out, kinds, version=version, licence=licence, pro=pro):  # type: ignore[arg-type]
        typer.echo(f"{folder}   potstill install {shlex.quote(str(folder))}")


def install(
    source: Annotated[str, typer.Argument(metavar="PACK", help="A pack's folder, or its http(s) address.")],
) -> None:
    """Fetch a pack, verify every file, put it under POTSTILL_HOME; an interrupted download goes on.

    Example:  potstill install packs/demo-base-1   then:  potstill chat demo-base-1
    """
    from potstill.pack import install as fetch
    from potstill.run import default_home

    typer.echo(f"potstill chat {fetch(source, default_home(), progress()).name}")


def device(
    model: Annotated[Path, typer.Argument(metavar="PACK|GGUF", help="A pack, its name, or a GGUF.")],
    as_json: Json = False,
) -> None:
    """Whether a pack runs on this machine: verified, sixteen tokens written, speed, memory, processor.

    Example:  potstill device demo-base-1
    """
    from potstill.pack.device import check_device

    seen = check_device(model)
    typer.echo(json.dumps(seen.to_json(), indent=1) if as_json else "\n".join(seen.lines()))


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN …", help="Finished runs; others are compared to the first.")
    ],
    page: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("compare.html"),
    as_json: Json = False,
) -> None:
    """Runs side by side on the same held-out prompts: values, paired differences, what differs in the recipes.

    Runs that differ in their seed alone are taken together.
    Example:  potstill compare runs/demo runs/other
    """
    from potstill.compare import compare as compare_runs
    from potstill.compare import comparison_json, comparison_tables, write_page

    found = compare_runs(runs)
    for warning in found.warnings:
        typer.echo(warning, err=True)
    if as_json:
        typer.echo(json.dumps(comparison_json(found), ensure_ascii=False, indent=1))
    else:
        for title, columns, rows in comparison_tables(found):
            show_table(title, columns, rows)
    place = page / "compare.html" if page.is_dir() else page
    write_page(found, place)
    typer.echo(f"Page: {place}", err=True)


def soak(
    model: Model,
    hours: Annotated[float, typer.Option(help="How long to talk.")] = 0.5,
    adapter: Adapter = None,
    as_json: Json = False,
) -> None:
    """Hold conversations at random for hours, and see whether memory grows. Ctrl-C ends it with what was seen.

    The exit code is 0 where nothing failed and no growth was shown, else 1 (too few conversations to tell, too).
    Example:  potstill soak runs/demo --hours 0.5
    """
    from potstill.chat import find_models
    from potstill.soak import soak as talk_for

    report = talk_for(next(iter(find_models(model, adapter).values()))(), hours, progress())
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else "\n".join(report.lines()))
    raise typer.Exit(0 if report.steady else 1)
