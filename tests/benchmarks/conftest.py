"""Benchmarks are scripts, not a package: their folders go onto the path, as they are when one is started."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path += [str(BENCHMARKS), str(BENCHMARKS / "simulate"), str(BENCHMARKS / "peers" / "runners")]
