"""What the machine can do: container limits are honoured, rates are plausible.

In:  made-up control group folders; this machine.
Out: the smaller of two limits, positive rates, the format that is clearly faster.
Does not know: how fast any machine is.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from potstill import machine
from potstill.machine import Machine

QUIET = Machine(
    cores=2,
    memory_mb=1000.0,
    disk_free_mb=1000.0,
    float32_gflops=100.0,
    bfloat16_gflops=100.0,
    bandwidth_gb_s=10.0,
)


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="ascii")
    return folder


def test_no_limits_means_all_cores_of_this_process(tmp_path: Path) -> None:
    unlimited = write(tmp_path, cpu__max="max 100000\n")

    assert machine.usable_cores(unlimited) == machine.usable_cores(tmp_path / "missing") >= 1


@pytest.mark.parametrize("quota", ["150000 100000\n", "50000 100000\n"])
def test_a_quota_of_less_than_two_cores_is_one_core(tmp_path: Path, quota: str) -> None:
    assert machine.usable_cores(write(tmp_path, cpu__max=quota)) == 1


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path) -> None:
    write(tmp_path / "cpu", cpu__cfs_quota_us="100000\n", cpu__cfs_period_us="100000\n")
    write(tmp_path / "memory", memory__limit_in_bytes="3000000\n", memory__usage_in_bytes="1000000\n")

    assert machine.usable_cores(tmp_path) == 1
    assert machine.available_memory_mb(tmp_path) == 2.0


def test_memory_is_what_the_limit_leaves_and_file_pages_can_be_dropped(tmp_path: Path) -> None:
    limited = write(
        tmp_path,
        memory__max="8000000\n",
        memory__current="6000000\n",
        memory__stat="anon 5\ninactive_file 1000000\n",
    )

    assert machine.available_memory_mb(limited) == 3.0
    assert machine.available_memory_mb(write(tmp_path, memory__max="max\n")) > 3.0


def test_a_full_container_has_no_memory_left_rather_than_less_than_none(tmp_path: Path) -> None:
    assert machine.available_memory_mb(write(tmp_path, memory__max="10", memory__current="20")) == 0.0


def test_the_disk_of_a_folder_that_is_not_there_yet_is_its_parents(tmp_path: Path) -> None:
    assert machine.disk_free_mb(tmp_path / "runs" / "first") == pytest.approx(machine.disk_free_mb(tmp_path), rel=0.1)


def test_bfloat16_must_be_clearly_faster() -> None:
    assert machine.training_dtype(QUIET) == "float32"
    assert machine.training_dtype(replace(QUIET, bfloat16_gflops=129.0)) == "float32"
    assert machine.training_dtype(replace(QUIET, bfloat16_gflops=131.0)) == "bfloat16"


def test_a_probe_measures_something_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "COPIED_BYTES", 1 << 20)

    found = machine.probe(0.03, tmp_path)

    assert min(found.cores, found.memory_mb, found.disk_free_mb, found.bandwidth_gb_s) > 0
    assert min(found.float32_gflops, found.bfloat16_gflops) > 0
    assert machine.fastest_dtype(0.01) in ("float32", "bfloat16")


@pytest.mark.parametrize("held_up", [{1}, {2}, {1, 2}])
def test_a_product_that_others_hold_up_does_not_decide(monkeypatch: pytest.MonkeyPatch, held_up: set[int]) -> None:
    clock, calls = [0.0], [0]

    def linear(positions: torch.Tensor, weight: torch.Tensor) -> None:
        calls[0] += 1
        clock[0] += 1.0 if calls[0] in held_up else 2 * len(positions) * weight.numel() / 100e9

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock[0])
    assert machine.multiplication_gflops(torch.float32, 0.1) == pytest.approx(100.0)
    assert calls[0] >= machine.PRODUCTS_TRIED


def test_a_probe_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    machine.fastest_dtype(0.01)

    assert torch.equal(torch.rand(2), expected)


def test_product_caches_are_bounded_unless_the_user_has_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    machine.bound_product_caches()
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    assert [os.environ[name] for name in names] == [str(machine.PRODUCTS_KEPT), "7"]


def test_a_quota_bounds_the_threads_unless_the_user_has_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(machine, "_allowed_cores", lambda: 32)
    monkeypatch.setattr(machine, "usable_cores", lambda: 32)
    machine.bound_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setattr(machine, "usable_cores", lambda: 3)
    machine.bound_threads()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    machine.bound_threads()
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_peak_memory_rises_with_what_is_used_and_never_falls() -> None:
    before = machine.peak_memory_mb()
    block = torch.ones(round(before * 1e6) // 4 + 10_000_000)
    during = machine.peak_memory_mb()
    del block

    assert during > before
    assert machine.peak_memory_mb() > 0.99 * during  # the kernel counts in batches


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the peak of a process for good")
def test_a_peak_that_is_forgotten_is_counted_anew() -> None:
    block = torch.ones(100_000_000)
    during = machine.peak_memory_mb()
    del block
    machine.forget_peak()
    assert machine.peak_memory_mb() < during - 300


def test_energy_is_the_sum_of_the_packages(tmp_path: Path) -> None:
    for name, microjoules in (("intel-rapl:0", 3_000_000), ("intel-rapl:1", 1_500_000), ("intel-rapl:0:0", 9)):
        write(tmp_path / name, energy_uj=f"{microjoules}\n")

    assert machine.energy_joules(tmp_path) == 4.5  # a core's own counter is part of its package's
    assert machine.energy_joules(tmp_path / "none") is None
    write(tmp_path / "intel-rapl:1", energy_uj="unreadable")
    assert machine.energy_joules(tmp_path) is None


@pytest.mark.skipif(machine.heap_in_use_mb() is None, reason="this C library does not tell")
def test_measuring_leaves_nothing_behind() -> None:
    machine.heap_in_use_mb()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(100):
        machine.heap_in_use_mb()
    gc.collect()
    assert sys.getallocatedblocks() - before < 10


@pytest.mark.skipif(machine._c_function("mallopt") is None, reason="this C library can't be told")
@pytest.mark.parametrize("pieces", [20, 4])
def test_what_is_freed_is_kept_for_what_is_asked_for_next(pieces: int) -> None:
    import resource

    def faults() -> int:
        """Pages that the system gave out for 400 MB, taken in pieces and freed."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        taken = [torch.ones(100_000_000 // pieces) for _ in range(pieces)]
        del taken
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    machine.return_memory()
    with machine.freed_memory_kept():
        first, again = faults(), faults()
    assert again < first / 2
    assert faults() > first / 2  # all went back


@pytest.mark.skipif(machine.heap_in_use_mb() is None, reason="this C library does not tell")
def test_the_heap_in_use_falls_when_memory_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    before = machine.heap_in_use_mb()
    taken = [libc.malloc(100_000) for _ in range(200)]
    during = machine.heap_in_use_mb()
    for one in taken:
        libc.free(one)
    after = machine.heap_in_use_mb()
    assert before is not None and during is not None and after is not None
    assert during - before == pytest.approx(20, abs=1) and after - before == pytest.approx(0, abs=1)
