"""The simulated stages: what must hold whatever the numbers are, and the page that is printed from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from costs import HALF_B, TEACHERS, break_even, hidden_bytes, reading_rate, topk_bytes, training_rate
from hardware import MACHINES
from hypothesis import given, settings
from hypothesis import strategies as st
from page_tables import short, span, tables
from paper import STORAGE, Fleet, answers_stage, distill_stage, run_costs, signals_stage, training_cost
from predict import predict
from queueing import Phase, Resource, Stage, cut, simulate

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=40)
DISK = {"disk": Resource(10.0)}


def test_alone_and_without_a_queue_time_is_work_over_rate() -> None:
    found = simulate(Stage(cut(1000, 30), [Phase(1 / 50)], start_seconds=3), {})
    assert found.seconds == pytest.approx(3 + 1000 / 50)
    assert simulate(Stage(cut(1000, 30), [Phase(1 / 50), Phase(2, "disk")]), DISK).seconds == pytest.approx(20 + 200)


def test_twice_the_workers_take_half_the_time_until_storage_is_saturated() -> None:
    """A piece is 8 s of a worker's own and 1 s of the disk: beyond nine workers the disk sets the pace."""
    stage = Stage(cut(7200, 10), [Phase(0.8), Phase(1.0, "disk")])
    alone = simulate(stage, DISK).seconds
    found = {workers: simulate(replace(stage, workers=workers), DISK) for workers in (2, 4, 8, 16, 32)}
    for workers in (2, 4, 8):
        assert found[workers].seconds == pytest.approx(alone / workers, rel=0.02)
        assert found[workers].saturated is None
    for workers in (16, 32):
        assert found[workers].seconds == pytest.approx(7200 / 10, rel=0.02)
        assert found[workers].saturated == "disk" and found[workers].busy["disk"] > 0.98


def test_a_second_server_takes_half_of_what_waits() -> None:
    stage = Stage(cut(400, 1), [Phase(1.0, "disk")], workers=8)
    one, two = (simulate(stage, {"disk": Resource(10.0, servers)}).seconds for servers in (1, 2))
    assert (one, two) == pytest.approx((40, 20))


@given(sizes=SIZES, workers=st.integers(1, 6), own=st.floats(0.01, 2), shared=st.floats(0.01, 2))
@settings(deadline=None)
def test_nothing_is_lost_and_no_bound_is_beaten(sizes: list[int], workers: int, own: float, shared: float) -> None:
    found = simulate(Stage(sizes, [Phase(own), Phase(shared, "disk"), Phase(own)], workers), {"disk": Resource(1.0)})
    assert sum(found.done) == sum(sizes)
    least = max(2 * own * sum(sizes) / workers, shared * sum(sizes), (2 * own + shared) * max(sizes))
    assert found.seconds >= least * (1 - 1e-9)
    assert found.seconds <= (2 * own + shared) * sum(sizes) * (1 + 1e-9)
    assert all(0 <= share <= 1 + 1e-9 for share in found.busy.values())


@given(total=st.integers(1, 10_000), piece=st.integers(1, 500))
@settings(deadline=None)
def test_pieces_add_up(total: int, piece: int) -> None:
    assert sum(cut(total, piece)) == total and max(cut(total, piece)) <= piece


def test_nothing_to_do_takes_the_start_alone() -> None:
    assert simulate(Stage([], [Phase(1.0)], workers=2, start_seconds=4), {}).seconds == 4


@pytest.mark.parametrize("make", [answers_stage, signals_stage])
def test_a_fleet_writes_and_reads_every_token(make: object) -> None:
    stage = make(10**4, HALF_B, Fleet(MACHINES["H100"], 8), 8)  # type: ignore[operator]
    each = {answers_stage: 155, signals_stage: 217}[make]  # type: ignore[index]
    assert sum(simulate(stage, Fleet(MACHINES["H100"], 8).resources).done) == pytest.approx(each * 10**4)


def test_one_device_needs_no_network() -> None:
    stage = distill_stage(10**4, HALF_B, Fleet(MACHINES["L4"], 1))
    assert stage.phases[-1].each == 0
    alone = training_cost(10**4, HALF_B, Fleet(MACHINES["L4"], 1)).seconds
    own = 217 * 10**4 * (1 / training_rate(HALF_B, MACHINES["L4"]) + stage.phases[0].each / MACHINES["L4"].storage)
    assert alone == pytest.approx(own)


def test_what_was_measured_on_two_cores_comes_out() -> None:
    """docs/results.md: 408 tokens/s read, 219 to 225 trained on; the assumptions must not drift from it."""
    assert reading_rate(HALF_B, MACHINES["2 cores"]) == pytest.approx(408, rel=0.05)
    assert training_rate(HALF_B, MACHINES["2 cores"]) == pytest.approx(222, rel=0.05)


def test_a_teacher_that_does_not_fit_costs_nothing_and_says_so() -> None:
    assert run_costs(10, TEACHERS[-1], Fleet(MACHINES["L4"], 1)) is None


def test_top_k_and_hidden_states_are_even_where_the_formula_says() -> None:
    for teacher in TEACHERS:
        for value_bytes in (1, 2):
            k = break_even(teacher.width, value_bytes)
            assert 8 * k + 4 == pytest.approx(hidden_bytes(teacher.width, value_bytes))
            assert topk_bytes(int(k)) <= hidden_bytes(teacher.width, value_bytes) < topk_bytes(int(k) + 1)


def figure(stage: str, tokens: int, seconds: float) -> dict[str, object]:
    return {"stage": stage, "prompts": tokens // 200, "tokens": tokens, "seconds": seconds}


def test_larger_sizes_follow_from_two_smaller_ones() -> None:
    one, two, larger = (figure("signals", tokens, 5 + tokens / 400) for tokens in (2_000, 6_000, 60_000))
    assert predict(one, two, larger, "seconds") == pytest.approx(5 + 60_000 / 400)


def test_work_that_does_not_grow_is_not_predicted_from_noise() -> None:
    one, two, larger = (figure("distill", tokens, 0) for tokens in (4_400, 4_100, 4_300))
    assert predict(one | {"seconds": 10.0}, two | {"seconds": 12.0}, larger, "seconds") == 11.0


@pytest.mark.parametrize(
    ("number", "text"), [(0.034, "0.034"), (7, "7"), (999.9, "1 k"), (1234, "1.2 k"), (140e12, "140 T"), (0, "0")]
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text


def test_times_are_short() -> None:
    assert [span(seconds) for seconds in (31.44, 90, 7200, 200_000)] == ["31.4 s", "1.5 min", "2 h", "2.3 d"]


def test_the_page_shows_what_the_script_prints() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, table in tables().items():
        assert table in page, f"docs/scale.md, {name}: print it again with `python benchmarks/simulate --table`"


def test_storage_is_shared_by_all_devices() -> None:
    few, many = (Fleet(MACHINES["H100"], devices).resources[STORAGE] for devices in (1, 8))
    assert many.rate == 8 * few.rate
