"""What a run costs at other sizes: predicted by simulation from what was measured, or reckoned from assumptions.

python benchmarks/simulate --table                                   the tables of docs/scale.md
python benchmarks/simulate --growth growth.json                      10 x and 30 x from 1 x and 3 x, beside measured
python benchmarks/simulate --run runs/demo --prompts 10000 --workers 4 --storage-mb 200
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from predict import growth_table, run_table

from potstill.problem import Problem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", action="store_true", help="print the tables of docs/scale.md")
    what.add_argument("--growth", type=Path, help="figures that benchmarks/growth.py left")
    what.add_argument("--run", type=Path, help="a finished run: its rates are taken")
    parser.add_argument("--prompts", type=int, default=10_000, help="with --run: prompts to predict for")
    parser.add_argument("--workers", type=int, default=1, help="with --run: machines like the one it ran on")
    parser.add_argument(
        "--storage-mb", type=float, default=500.0, help="with --run: MB a second that all of them share"
    )
    given = parser.parse_args()
    if given.table:
        from page_tables import tables

        print("\n\n".join(f"## {name}\n\n{table}" for name, table in tables().items()))
        return 0
    if min(given.prompts, given.workers, given.storage_mb) <= 0:
        parser.error("--prompts, --workers and --storage-mb are above 0")
    try:
        if given.growth:
            print(growth_table(given.growth))
        else:
            print(run_table(given.run, given.prompts, given.workers, 1e6 * given.storage_mb))
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
