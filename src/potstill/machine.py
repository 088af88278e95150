"""What this machine can do: cores, memory, disk, and how fast it multiplies and copies.

In:  a number of seconds to spend on measuring; what the operating system says, container limits included.
Out: a `Machine`; the number format that training is fastest in; the memory this process has used, and a bound to it.
Does not know: recipes, runs, models (only the shape of the multiplications that training is made of).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.problem import Problem

if TYPE_CHECKING:
    import torch

ROWS, WIDTH, INNER = 2048, 896, 4864
"""Positions, width and feed-forward neurons of the multiplication: a training step of a 0.5B model."""
COPIED_BYTES = 128 * 1024 * 1024
"""Larger than most caches, so that copying it measures memory."""
WORTH_ROUNDING = 1.3
"""bfloat16 must be this much faster than float32 before its coarser numbers are worth it."""
PRODUCTS_TRIED = 3
"""At least, of each kind, when rates are probed."""
PRODUCTS_KEPT = 16
"""Compiled products, up to 0.7 MB each: to compile one again costs nothing beside a product of hundreds of rows."""
CGROUPS = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
"""Names of glibc's malloc.h."""
_LARGEST_MMAP_THRESHOLD = 32 * 1024 * 1024
"""Bytes; glibc takes no more. What is larger comes from the system and goes back to it, unless that is barred."""
_USUAL_MMAPS = 65536
"""Glibc's own: how many such pieces there may be."""
POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Machine:
    """What a run may count on. MB are 10⁶ bytes, rates are 10⁹ operations or bytes a second."""

    cores: int
    """Usable by this process: affinity and container quota count."""
    memory_mb: float
    """Available now, within the container's limit."""
    disk_free_mb: float
    float32_gflops: float
    bfloat16_gflops: float
    bandwidth_gb_s: float
    """Bytes read and bytes written, both counted, while copying."""


def probe(seconds: float, folder: Path = Path()) -> Machine:
    """Measure this machine for about `seconds` (and at least one multiplication of each kind).

    Args:
        seconds: time to spend in all, without the first import of torch.
        folder: where runs will be written; its disk is the one that counts.
    """
    import torch

    share = seconds / 3
    return Machine(
        cores=usable_cores(),
        memory_mb=available_memory_mb(),
        disk_free_mb=disk_free_mb(folder),
        float32_gflops=multiplication_gflops(torch.float32, share),
        bfloat16_gflops=multiplication_gflops(torch.bfloat16, share),
        bandwidth_gb_s=copy_gb_per_second(share),
    )


def bound_product_caches() -> None:
    """Keep oneDNN and PyTorch from holding a compiled product for each of a thousand shapes; call it before torch.

    Batches differ in length, and every length makes shapes of its own. What the user has set stays.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(PRODUCTS_KEPT))


def bound_threads() -> None:
    """Keep PyTorch from starting a thread for every core of a host whose container may use a few; call it before torch.

    What the user has set stays.
    """
    if usable_cores() < _allowed_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def training_dtype(machine: Machine) -> str:
    """ "bfloat16" where it is clearly faster than float32, else "float32"."""
    return _faster(machine.float32_gflops, machine.bfloat16_gflops)


def fastest_dtype(seconds: float = 0.2) -> str:
    """As `training_dtype`, from a probe of `seconds` of the two multiplication rates alone. A GPU is asked instead."""
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    rates = [multiplication_gflops(dtype, seconds / 2) for dtype in (torch.float32, torch.bfloat16)]
    return _faster(*rates)


def multiplication_gflops(dtype: torch.dtype, seconds: float) -> float:
    """Best rate of [M, 896] x [896, 4864] products, 10⁹ floating-point operations a second.

    M starts small and doubles up to 2048, so that a machine without fast `dtype` units is not kept for long. A product
    that other programs have held up says nothing of the next: the best of at least `PRODUCTS_TRIED` counts.
    """
    import torch

    weight = torch.ones(INNER, WIDTH, dtype=dtype)
    rows, best, tried, deadline = 32, 0.0, 0, time.perf_counter() + seconds
    with torch.no_grad():
        while True:
            positions = torch.ones(rows, WIDTH, dtype=dtype)
            start = time.perf_counter()
            torch.nn.functional.linear(positions, weight)
            now = time.perf_counter()
            tried, best = tried + 1, max(best, 2 * rows * WIDTH * INNER / (now - start) / 1e9)
            longer = min(2 * rows, ROWS)
            if now + 2 * longer * WIDTH * INNER / best / 1e9 <= deadline:
                rows = longer
            elif tried >= PRODUCTS_TRIED:
                return best


def copy_gb_per_second(seconds: float) -> float:
    """Best rate of copying memory, 10⁹ bytes a second, bytes read and bytes written both counted."""
    import torch

    source = torch.ones(COPIED_BYTES, dtype=torch.uint8)
    target = torch.zeros_like(source)
    best, deadline = 0.0, time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        target.copy_(source)
        now = time.perf_counter()
        best = max(best, 2 * COPIED_BYTES / (now - start) / 1e9)
        if now >= deadline:
            return best


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What Linux calls the processor, on a Raspberry Pi the whole board; empty where it says nothing."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return told.get("model name") or told.get("Model") or ""


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """Cores this process may run on: its affinity, and no more than its container's quota pays for."""
    quotas = [quota for folder in _cgroup_folders(cgroups) if (quota := _quota(folder)) is not None]
    return max(1, min([_allowed_cores(), *(int(quota) for quota in quotas)]))


def available_memory_mb(cgroups: Path = CGROUPS) -> float:
    """Memory that can be taken without swapping, MB, within every limit of the container."""
    rooms = [room for folder in _cgroup_folders(cgroups) if (room := _room(folder)) is not None]
    return max(0.0, min([_free_memory(), *rooms]) / 1e6)


def disk_free_mb(folder: Path) -> float:
    """Free space, MB, on the disk that `folder` is on or would be created on."""
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free / 1e6


def require_space(
    folder: Path, needed: int, purpose: str, elsewhere: str = "set POTSTILL_HOME to another disk"
) -> None:
    """Raises: Problem unless the disk that `folder` is on, or would be created on, has `needed` bytes left."""
    free = disk_free_mb(folder)
    if free < needed / 1e6:
        raise Problem(
            f"{purpose} needs {needed / 1e6:,.0f} MB, the disk of {folder} has {free:,.0f} MB left",
            f"Make room, or {elsewhere}.",
        )


def folder_bytes(folder: Path) -> int:
    """What the files below `folder` take; 0 where there is none."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process may be at work there
            status = path.lstat()
            found += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return found


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, or since `forget_peak`, MB.

    Linux: VmHWM, since ru_maxrss is inherited from the parent and so may tell of another program.
    """
    peak = _own_status_mb("VmHWM:")
    if peak is not None:
        return peak
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6


def forget_peak() -> None:
    """Give back what is free, and let `peak_memory_mb` begin anew; on other systems than Linux it goes on."""
    return_memory()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def return_memory() -> None:
    """Ask the C library to give freed memory back to the system (only glibc keeps it)."""
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While open, the C library keeps what is freed for what is asked for next (only glibc can be told).

    Work that frees and takes the same gigabytes every few seconds otherwise gets each page anew from the system, which
    empties it first: a fifth of a training step's time. Afterwards all goes back.
    """
    setting = _c_function("mallopt")
    if setting is None:
        yield
        return
    setting(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    setting(_M_MMAP_MAX, 0)  # the gradient of an embedding alone is larger than that threshold
    setting(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        setting(_M_MMAP_MAX, _USUAL_MMAPS)
        setting(_M_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)  # what glibc comes to by itself
        return_memory()


def resident_memory_mb() -> float:
    """Resident memory of this process now, MB. Linux answers without a library that would add to the answer."""
    here = _own_status_mb("VmRSS:")
    if here is not None:
        return here
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e6


def heap_in_use_mb() -> float | None:
    """What the C library's allocator has given out and not got back, MB; None where it doesn't say (only glibc does).

    Resident memory also holds what was freed: it creeps by a page now and then in a process that leaks nothing.
    """
    tell = _c_function("mallinfo2")
    if tell is None:
        return None
    tell.restype = _HeapInfo
    told = tell()
    return float(told.uordblks + told.hblkhd) / 1e6


@cache
def _c_function(name: str) -> Any:
    """Of the C library; None where it has none of that name. Kept: Python never quite forgets one it looked up."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


class _HeapInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def energy_joules(powercap: Path = POWERCAP) -> float | None:
    """What the processor packages have used since some moment, by their own counters; None where none may be read.

    Intel and AMD on Linux (RAPL), often for root only; a counter begins again after some hours at full load.
    """
    counters = [path / "energy_uj" for path in powercap.glob("*-rapl:*") if path.name.count(":") == 1]
    try:
        readings = [int(counter.read_text()) for counter in counters]
    except (OSError, ValueError):
        return None
    return sum(readings) / 1e6 if readings else None


def _allowed_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _own_status_mb(field: str) -> float | None:
    """A line of Linux's own account of this process; None on other systems."""
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="ascii", errors="replace").splitlines() if status.exists() else ():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def _faster(float32: float, bfloat16: float) -> str:
    return "bfloat16" if bfloat16 > WORTH_ROUNDING * float32 else "float32"


def _cgroup_folders(cgroups: Path) -> list[Path]:
    """Folders whose limits hold for this process: version 2's from its own group up, and version 1's two."""
    folders = [cgroups / "cpu", cgroups / "memory", cgroups]
    own = Path("/proc/self/cgroup")
    if cgroups == CGROUPS and own.exists():
        for line in own.read_text(encoding="utf-8").splitlines():
            group = Path(line.rpartition(":")[2].lstrip("/"))
            if line.startswith("0::"):
                folders += [cgroups / parent for parent in (group, *group.parents)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _quota(folder: Path) -> float | None:
    """Cores' worth of time that this group may use; None: no limit."""
    if text := _read(folder / "cpu.max"):
        allowed, period = text.split()[:2]
    else:
        allowed, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if not allowed or not period or allowed in ("max", "-1"):
        return None
    return int(allowed) / int(period)


def _free_memory() -> float:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    import psutil

    return float(psutil.virtual_memory().available)


def _room(folder: Path) -> float | None:
    """Bytes left under this group's memory limit; file pages that can be dropped count as left."""
    limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
    used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
    if not limit or limit == "max" or not used:
        return None
    statistics = dict(line.split()[:2] for line in _read(folder / "memory.stat").splitlines() if " " in line)
    droppable = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
    return float(int(limit) - int(used) + droppable)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""
