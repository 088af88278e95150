"""llama.cpp's shared library: loaded once, silent, with a chosen way for idle OpenMP threads to wait.

In:  how idle threads shall wait (`PASSIVE` or `ACTIVE`).
Out: the `xllamacpp` module, and the C interface of the same library through ctypes.
Does not know: models, prompts, files.

OpenMP reads its settings once, when its own library is mapped; whoever maps it first in a process decides for
all (PyTorch brings the same library). So the first choice stays, and `waiting_in_force` says which it was.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Literal

from potstill.problem import Problem

Waiting = Literal["PASSIVE", "ACTIVE"]

_POLICY = "OMP_WAIT_POLICY"
_SPINS = "GOMP_SPINCOUNT"
_SPINS_ACTIVE = "300000"
"""About 10 ms, longer than any pause between two tokens: without it an idle chat keeps a core busy."""
_in_force: str | None = None


def load(waiting: Waiting) -> ModuleType:
    """Import xllamacpp, with `waiting` as OpenMP's policy if nothing in this process has bound another.

    Raises: Problem where the library is missing or can't be loaded.
    """
    global _in_force
    if "xllamacpp" in sys.modules:
        _in_force = _in_force or _policy_in_environment()
        return sys.modules["xllamacpp"]
    if _openmp_is_mapped():
        _in_force = _in_force or _policy_in_environment()
        return _import()
    before = dict(os.environ)
    os.environ[_POLICY] = _in_force = waiting
    if waiting == "ACTIVE":
        os.environ.setdefault(_SPINS, _SPINS_ACTIVE)
    try:
        return _import()
    finally:  # child processes choose for themselves
        for name in (_POLICY, _SPINS):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def waiting_in_force() -> str:
    """`PASSIVE`, `ACTIVE`, or `UNSET` (OpenMP's own default); `NONE` before the library is loaded."""
    return _in_force or "NONE"


def shared_library(waiting: Waiting) -> ctypes.CDLL:
    """The C interface (`llama_*`, `ggml_*`) of the library that xllamacpp has loaded; its log is off.

    Calls through it let go of the interpreter lock. Raises: as `load`.
    """
    package = load(waiting)
    extension = importlib.import_module(f"{package.__name__}.xllamacpp")
    library = ctypes.CDLL(str(extension.__file__))
    silence(library)
    return library


def silence(library: ctypes.CDLL) -> None:
    """Send llama.cpp's log nowhere.

    The callback is C's own `abs`: it ignores the text, and unlike a Python function it needs no interpreter
    lock, which the destruction of a server holds while the server's threads still log.
    """
    library.llama_log_set.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.llama_log_set.restype = None
    library.llama_log_set(ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p), None)


def _import() -> ModuleType:
    try:
        return importlib.import_module("xllamacpp")
    except ModuleNotFoundError as error:
        raise Problem("xllamacpp is not installed", "Install it with: pip install xllamacpp") from error
    except ImportError as error:
        if "libgomp" not in str(error) or not _map_torch_openmp():
            raise Problem(f"llama.cpp can't be loaded: {error}", "Install what it names.") from error
    return importlib.import_module("xllamacpp")


def _map_torch_openmp() -> bool:
    """Slim systems have no libgomp of their own, but PyTorch's wheel carries it under the same name."""
    torch = importlib.util.find_spec("torch")
    for folder in (torch.submodule_search_locations or ()) if torch is not None else ():
        for file in Path(folder, "lib").glob("libgomp*.so*"):
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
            return True
    return False


def _openmp_is_mapped() -> bool:
    try:
        return "libgomp" in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: PyTorch is the only other part of potstill that uses OpenMP
        return "torch" in sys.modules


def _policy_in_environment() -> str:
    return os.environ.get(_POLICY, "").upper() or "UNSET"
