"""The field's own numbers: lm-evaluation-harness on the student's Transformers checkpoint.

In:  a checkpoint folder, names of the harness's tasks.
Out: task → metric → value, as the harness gives them.
Does not know: our own measures.

What is scored here is not the GGUF that ships but the checkpoint it was made from: the harness reads no GGUF by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from potstill.problem import Problem, install


def harness_scores(checkpoint: Path, tasks: Sequence[str], limit: int | None = None) -> dict[str, dict[str, Any]]:
    """Run tasks of lm-evaluation-harness.

    Args:
        checkpoint: a Transformers folder.
        tasks: as in `lm-eval ls tasks`, or YAML files of your own.
        limit: items of each; all if None.

    Raises: Problem where the harness is not installed, knows no such task, or cannot fetch its data.
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise Problem("lm-evaluation-harness is not installed", install("lm-eval")) from None
    manager = TaskManager()
    unknown = [task for task in tasks if not Path(task).is_file() and not manager.match_tasks([task])]
    if unknown:
        raise Problem(f"lm-evaluation-harness knows no task {', '.join(unknown)}", "`lm-eval ls tasks` lists them all.")
    try:
        with redirect_stdout(sys.stderr):  # some of its metrics print
            found = lm_eval.simple_evaluate(
                model="hf",
                model_args={"pretrained": str(checkpoint), "dtype": "float32", "trust_remote_code": False},
                tasks=list(tasks),
                device="cpu",
                limit=limit,
                task_manager=manager,
            )
    except (OSError, ValueError) as error:
        raise Problem(
            f"lm-evaluation-harness stopped: {error}", "Its data come from the Hub: is it reachable?"
        ) from error
    return {
        task: {metric: value for metric, value in measured.items() if isinstance(value, int | float)}
        for task, measured in found["results"].items()
    }
