"""The runtime that a pack is sized with: the wheel of llama.cpp that potstill itself uses.

In:  nothing.
Out: its name, its version, and what its wheels weigh.
Does not know: what is installed here.
"""

from __future__ import annotations

from potstill.pack.manifest import PackRuntime

NAME, VERSION = "xllamacpp", "2026.10.11549"
WHEELS = {
    "Linux x86-64": 33_827_498,
    "Linux arm64": 32_870_844,
    "macOS arm64": 12_152_949,
    "Windows x86-64": 8_733_245,
}
"""Bytes of the wheels of that version on PyPI."""


def runtime() -> PackRuntime:
    """What every pack's manifest says of its runtime; its size is that of the largest wheel."""
    return PackRuntime(name=NAME, version=VERSION, wheel_bytes=max(WHEELS.values()), wheels=dict(WHEELS))
