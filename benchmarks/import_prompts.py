"""What importing many prompts costs: seconds and peak memory of the stage `prompts`, in a process of its own.

    python benchmarks/import_prompts.py --prompts 100000

A twentieth of the file repeats an earlier line, another twentieth does so but for a character.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from made_text import write_rows
from measuring import alone

from potstill.prompts import collect
from potstill.recipe import Recipe
from potstill.run import Run, read_json

REPEATED = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[100_000], help="lines of the imported file")
    given = parser.parse_args()
    print("| lines | kept | exact | near | seconds | ms a line | peak MB |\n|---|---|---|---|---|---|---|")
    for lines in given.prompts:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "imported.jsonl"
            write_rows(file, lines, REPEATED)
            cost = alone(import_file, file)
            report = read_json(file.parent / "report.json")
        dropped = report["dropped"]
        print(
            f"| {lines:,} | {report['kept']:,} | {dropped['exact']:,} | {dropped['near']:,} | {cost.seconds:.1f} "
            f"| {1e3 * cost.seconds / lines:.2f} | {cost.peak_mb:.0f} |",
            flush=True,
        )


def import_file(file: Path) -> None:
    recipe = Recipe.model_validate({"name": "import", "prompts": {"files": [{"path": file}]}})
    collect(Run(file.parent, recipe), file.parent)


if __name__ == "__main__":
    main()
