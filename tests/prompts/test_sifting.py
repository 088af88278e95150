"""Tests of which prompts stay."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.progress import Silent
from potstill.prompts.overlap import containment, grams, jaccard
from potstill.prompts.prompt import GOLDEN, Prompt, Split
from potstill.prompts.sifting import HELD_OUT, Dropped, limit_training, sift

THRESHOLD = 0.8
TOMATO = "番茄炒蛋到底先炒蛋还是先炒番茄？"


def prompt(name: str, text: str, split: Split = "train", source: str = "own.txt:1", category: str = "own") -> Prompt:
    return Prompt(name, text, category, source, split)


def sifted(
    prompts: list[Prompt], kept_away: dict[str, list[str]] | None = None, threshold: float = THRESHOLD
) -> tuple[list[Prompt], list[Dropped]]:
    with Silent().task("", None, "") as task:
        return sift(prompts, kept_away or {}, threshold, task)


def reasons(dropped: list[Dropped]) -> list[tuple[str, str]]:
    return [(one.reason, one.like) for one in dropped]


def test_no_threshold_lets_through_what_is_kept_away_word_for_word() -> None:
    kept, dropped = sifted([prompt("a", TOMATO), prompt("b", f"请问{TOMATO}")], {"exam": [TOMATO]}, threshold=1.0)
    assert kept == [] and reasons(dropped) == [("overlap", "exam")] * 2


def test_same_text_stays_once() -> None:
    first, second = prompt("a", TOMATO), prompt("b", TOMATO)
    kept, dropped = sifted([first, second], threshold=1.0)
    assert kept == [first]
    assert reasons(dropped) == [("exact", "a")]


def test_nearly_the_same_text_stays_once() -> None:
    first, second = prompt("a", TOMATO), prompt("b", TOMATO.replace("？", " ?"))
    kept, dropped = sifted([first, second])
    assert kept == [first]
    assert reasons(dropped) == [("near", "a")]


def test_text_that_holds_an_evaluation_question_is_refused() -> None:
    """However much is written around it: Jaccard alone would let it pass."""
    wrapped = prompt("a", f"请一步一步地想，用小学生也能听懂的话，认真回答下面这个问题，不要超过三句话。{TOMATO}谢谢！")
    assert sifted([wrapped])[0] == [wrapped]
    kept, dropped = sifted([wrapped], {"cooking": [TOMATO]})
    assert kept == []
    assert reasons(dropped) == [("overlap", "cooking")]


def test_held_out_prompt_stays_and_its_training_twin_goes() -> None:
    """Even where the training prompt comes first."""
    train, held_out = prompt("a", TOMATO), prompt("b", TOMATO + "！", "held-out")
    kept, dropped = sifted([train, held_out])
    assert kept == [held_out]
    assert reasons(dropped) == [("overlap", HELD_OUT)]


def test_golden_prompt_stays_whatever_it_is_like() -> None:
    golden = prompt("golden", TOMATO, "train", GOLDEN)
    kept, dropped = sifted([prompt("a", TOMATO + "！", "held-out"), prompt("b", TOMATO), golden])
    assert kept == [golden]
    assert reasons(dropped) == [("near", "golden"), ("exact", "golden")]


def test_a_golden_prompt_that_holds_what_the_user_holds_out_goes() -> None:
    golden = prompt("golden", f"请一步一步地想，再回答下面这个问题，不要超过三句话：{TOMATO}谢谢！", "train", GOLDEN)
    own = prompt("a", TOMATO, "held-out")
    kept, dropped = sifted([golden, own])
    assert kept == [own]
    assert reasons(dropped) == [("overlap", HELD_OUT)]


@given(
    st.lists(
        st.tuples(st.text("ab", min_size=1, max_size=9), st.sampled_from(["train", "held-out"]), st.booleans()),
        max_size=12,
    ),
    st.lists(st.text("ab", min_size=1, max_size=9), max_size=3),
    st.sampled_from([0.3, 0.5, 0.8]),
)
@settings(deadline=None)
def test_what_stays_is_apart(rows: list[tuple[str, Split, bool]], away: list[str], threshold: float) -> None:
    prompts = [
        prompt(str(place), text, split, GOLDEN if golden else f"own:{place}")
        for place, (text, split, golden) in enumerate(rows)
    ]
    kept, dropped = sifted(prompts, {"set": away}, threshold)
    assert len(kept) + len(dropped) == len(prompts)
    assert kept == [one for one in prompts if one in kept]
    for place, one in enumerate(kept):
        mine = grams(one.text)
        for other in kept[:place]:
            theirs = grams(other.text)
            assert jaccard(len(mine & theirs), len(mine), len(theirs)) <= threshold
        if one.split == "train":
            for text in (*away, *(other.text for other in kept if other.split == "held-out")):
                assert containment(len(mine & grams(text)), len(mine), len(grams(text))) <= threshold


def test_limit_keeps_the_categories_in_their_shares() -> None:
    sizes = {"everyday": 60, "office": 30, "code": 10}
    prompts = [
        prompt(f"{name}-{place}", f"{name} {place}", category=name)
        for name, size in sizes.items()
        for place in range(size)
    ]
    held_out = prompt("held", "held", "held-out")
    kept, dropped = limit_training([held_out, *prompts], 10, seed=0)
    assert kept[0] == held_out
    assert Counter(one.category for one in kept[1:]) == {"everyday": 6, "office": 3, "code": 1}
    assert len(dropped) == 90 and {one.reason for one in dropped} == {"limit"}
    assert kept == [one for one in [held_out, *prompts] if one in kept]


def test_limit_keeps_what_people_wrote_before_what_was_made_up() -> None:
    def of(source: str, many: int) -> list[Prompt]:
        names = ("everyday", "code")
        return [
            prompt(f"{source}-{place}", f"{source} {place}", category=names[place % 2], source=source)
            for place in range(many)
        ]

    made_up, peoples = of("synthetic:everyday", 40), [*of(GOLDEN, 6), *of("own.txt:1", 4)]
    kept = limit_training([*made_up, *peoples], 14, seed=0)[0]
    assert kept[4:] == peoples and Counter(one.category for one in kept[:4]) == {"everyday": 2, "code": 2}
    fewer = limit_training([*made_up, *peoples], 6, seed=0)[0]
    assert not set(fewer) & set(made_up) and Counter(one.category for one in fewer) == {"everyday": 3, "code": 3}


def test_limit_is_drawn_by_the_seed_alone() -> None:
    prompts = [prompt(str(place), str(place)) for place in range(50)]
    drawn = limit_training(prompts, 5, seed=1)[0]
    assert {one.id for one in limit_training(prompts[::-1], 5, seed=1)[0]} == {one.id for one in drawn}
    assert {one.id for one in limit_training(prompts, 5, seed=2)[0]} != {one.id for one in drawn}


def test_without_a_limit_all_stay() -> None:
    prompts = [prompt(str(place), str(place)) for place in range(5)]
    assert limit_training(prompts, None, seed=0) == (prompts, [])
