"""The engine writes what llama.cpp writes, in pieces, whole and in batches, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from potstill.models import library
from potstill.models.completion import Wishes
from potstill.models.engine import Engine, Sampling, Threads, default_threads, derive_seed
from potstill.problem import Problem

THREADS = Threads(decode=1, prefill=2, waiting="PASSIVE")
GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, seed=1, max_tokens=12, repeat_penalty=1.0)
SAMPLED = replace(GREEDY, temperature=1.0, seed=5)
QUESTIONS = [[{"role": "user", "content": text}] for text in ("你好", "hello there", "写一首诗。", "1+1", "再见")]


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path):
    with Engine(tiny_gguf, context=96, slots=2, threads=THREADS) as opened:
        yield opened


def test_the_pieces_of_a_stream_are_the_reply(engine: Engine) -> None:
    reply = engine.reply(QUESTIONS[0], GREEDY)

    pieces = list(engine.stream(QUESTIONS[0], GREEDY))

    assert "".join(pieces) == reply.text
    assert len(pieces) > 1
    assert 0 < reply.first_token_s <= reply.seconds
    assert reply.prompt_tokens == engine.count_tokens(QUESTIONS[0])


def test_prompts_are_rendered_and_counted_as_transformers_does(engine: Engine, tiny_checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    conversation = [
        {"role": "user", "content": "e\u0301crire"},  # not NFC, which Qwen's tokenizers make of it
        {"role": "assistant", "content": "好的 <|im_end|>"},
        {"role": "user", "content": "谢谢"},
    ]
    expected = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)

    assert engine.render(conversation) == expected
    assert engine.count_tokens(conversation) == len(tokenizer(expected, add_special_tokens=False)["input_ids"])
    assert engine.count_tokens("今天天气") == len(tokenizer("今天天气", add_special_tokens=False)["input_ids"])


def test_greedy_is_the_likeliest_token_each_time(engine: Engine, tiny_model, tiny_checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    inputs = tokenizer(engine.render(QUESTIONS[0]), return_tensors="pt", add_special_tokens=False)
    written = tiny_model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = tokenizer.decode(written, skip_special_tokens=True)

    reply = engine.reply(QUESTIONS[0], GREEDY)

    assert reply.text.rstrip("\ufffd") == expected.rstrip("\ufffd")  # a character cut in two shows in other ways
    assert reply.tokens == len(written)


def test_the_same_seed_gives_the_same_text_and_another_one_another(engine: Engine) -> None:
    texts = [engine.reply(QUESTIONS[1], replace(SAMPLED, seed=seed)).text for seed in (5, 5, 6)]

    assert texts[0] == texts[1] != texts[2]
    assert engine.reply(QUESTIONS[1], replace(SAMPLED, top_k=1)).text == engine.reply(QUESTIONS[1], GREEDY).text


def test_nothing_of_one_conversation_reaches_the_next(engine: Engine) -> None:
    before = engine.reply(QUESTIONS[0], GREEDY).text
    engine.reply(QUESTIONS[2], SAMPLED)

    assert engine.reply(QUESTIONS[0], GREEDY).text == before


def test_a_batch_answers_every_conversation_with_its_own_seed(engine: Engine) -> None:
    replies = dict(engine.batch(QUESTIONS, SAMPLED))

    assert sorted(replies) == list(range(len(QUESTIONS)))
    for index, conversation in enumerate(QUESTIONS):
        alone = engine.reply(conversation, replace(SAMPLED, seed=derive_seed(SAMPLED.seed, index)))
        assert replies[index].text == alone.text
        assert replies[index].prompt_tokens == alone.prompt_tokens


def test_a_resumed_batch_goes_on_as_the_whole_one_would_have(engine: Engine) -> None:
    whole = dict(engine.batch(QUESTIONS, SAMPLED))
    left = [3, 4]

    rest = engine.batch([QUESTIONS[i] for i in left], SAMPLED, [derive_seed(SAMPLED.seed, i) for i in left])

    assert {left[place]: reply.text for place, reply in rest} == {i: whole[i].text for i in left}


def test_derived_seeds_are_stable_and_fit(engine: Engine) -> None:
    seeds = [derive_seed(0, index) for index in range(1000)]

    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seeds[:2] == [derive_seed(0, 0), derive_seed(0, 1)]
    assert derive_seed(1, 0) != seeds[0]


def test_max_tokens_and_the_context_end_an_answer(engine: Engine) -> None:
    short = engine.reply(QUESTIONS[0], replace(GREEDY, max_tokens=3), ignore_end=True)
    full = engine.reply(QUESTIONS[0], replace(GREEDY, max_tokens=10_000), ignore_end=True)

    assert (short.finish, short.tokens) == ("length", 3)
    assert (full.finish, full.prompt_tokens + full.tokens) == ("length", engine.context)


def test_a_stop_text_ends_the_answer_before_it(engine: Engine) -> None:
    whole = engine.reply(QUESTIONS[0], GREEDY)
    stop = whole.text[3:5]  # within tokens or across them

    reply = engine.reply(QUESTIONS[0], replace(GREEDY, stop=(stop,)))

    assert reply.text == whole.text[: whole.text.index(stop)]
    assert reply.finish == "stop" and reply.tokens < whole.tokens


def test_a_prompt_longer_than_the_context_is_refused_before_any_work(engine: Engine) -> None:
    long = [{"role": "user", "content": "你好" * 200}]
    count = engine.count_tokens(long)

    for ask in (engine.stream, engine.reply):
        with pytest.raises(Problem, match=rf"{count} tokens long; a context of 96 takes 95"):
            ask(long, GREEDY)
    with pytest.raises(Problem, match=str(count)):
        engine.batch([QUESTIONS[0], long], GREEDY)
    assert engine.reply(QUESTIONS[0], GREEDY).text  # it goes on


def metric(engine: Engine, name: str) -> int:
    lines = engine._server.handle_metrics().splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith(f"llamacpp:{name} "))


def tokens_written(engine: Engine) -> int:
    while metric(engine, "requests_processing"):
        pass
    return metric(engine, "tokens_predicted_total")


def test_closing_a_stream_stops_the_work(tiny_gguf: Path) -> None:
    with Engine(tiny_gguf, context=512, slots=1, threads=THREADS) as engine:
        pieces = engine.stream(QUESTIONS[0], replace(GREEDY, max_tokens=10_000))
        next(pieces)
        pieces.close()

        assert tokens_written(engine) < 100  # of more than 400 that there was room for


def test_closing_a_batch_drops_the_rest(engine: Engine) -> None:
    before = tokens_written(engine)
    replies = engine.batch(QUESTIONS * 20, SAMPLED)
    next(replies)
    replies.close()

    assert tokens_written(engine) - before < 50 * SAMPLED.max_tokens
    assert engine.reply(QUESTIONS[0], GREEDY).text


def test_more_conversations_than_slots_wait_for_each_other(engine: Engine) -> None:
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(engine.reply(QUESTIONS[0], GREEDY).text)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert texts == [texts[0]] * 5


def test_opening_and_closing_again_and_again(tiny_gguf: Path) -> None:
    texts = set()
    for _ in range(3):
        with Engine(tiny_gguf, context=64, slots=1, threads=THREADS) as engine:
            texts.add(engine.reply(QUESTIONS[0], GREEDY).text)
    Engine(tiny_gguf, context=64, slots=1, threads=THREADS).close()  # at once, unused

    assert len(texts) == 1


def test_closing_while_somebody_reads_ends_the_reading(tiny_gguf: Path) -> None:
    engine = Engine(tiny_gguf, context=512, slots=1, threads=THREADS)
    pieces = engine.stream(QUESTIONS[0], replace(GREEDY, max_tokens=10_000))
    next(pieces)
    engine.close()
    engine.close()

    with pytest.raises(RuntimeError, match="stopped"):
        list(pieces)
    with pytest.raises(RuntimeError, match="closed"):
        engine.reply(QUESTIONS[0], GREEDY)


def test_closing_while_somebody_waits_for_a_slot_ends_the_waiting(tiny_gguf: Path) -> None:
    engine = Engine(tiny_gguf, context=512, slots=1, threads=THREADS)
    held = threading.Event()
    engine.write(engine.prompt_ids(QUESTIONS[0]), GREEDY, Wishes(), lambda _: held.wait(30))  # the only slot is taken
    refusals: list[str] = []

    def wait_for_a_slot() -> None:
        with pytest.raises(RuntimeError) as refusal:
            engine.reply(QUESTIONS[0], GREEDY)
        refusals.append(str(refusal.value))

    waiting = [threading.Thread(target=wait_for_a_slot, daemon=True) for _ in range(3)]
    closing = threading.Thread(target=engine.close, daemon=True)
    for thread in waiting:
        thread.start()
    wait_until(lambda: engine._workers._work_queue.qsize() == 3)
    closing.start()
    wait_until(engine._stop.is_set)
    held.set()
    for thread in [*waiting, closing]:
        thread.join(20)

    assert refusals == ["The answer was stopped."] * 3


def test_closing_while_others_count_tokens_ends_their_counting(tiny_gguf: Path) -> None:
    """Once it waited for ever: the server for the connection, the counter for Python's lock that the server held."""
    for _ in range(10):
        engine = Engine(tiny_gguf, context=96, slots=1, threads=THREADS)
        begun = threading.Semaphore(0)

        def count(engine: Engine = engine, begun: threading.Semaphore = begun) -> None:
            with pytest.raises(RuntimeError, match="closed"):
                while True:
                    engine.count_tokens("你好" * 50)
                    begun.release()

        counting = [threading.Thread(target=count, daemon=True) for _ in range(3)]
        for thread in counting:
            thread.start()
        for _ in range(6):
            assert begun.acquire(timeout=10)
        engine.close()
        for thread in counting:
            thread.join(10)
            assert not thread.is_alive()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def test_two_models_at_once(tiny_ggufs: dict[str, Path]) -> None:
    with Engine(tiny_ggufs["F16"], context=64, slots=1, threads=THREADS) as first:
        expected = first.reply(QUESTIONS[0], GREEDY).text
        with Engine(tiny_ggufs["Q8_0"], context=64, slots=1, threads=THREADS) as second:
            assert second.reply(QUESTIONS[0], GREEDY).text
        assert first.reply(QUESTIONS[0], GREEDY).text == expected


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "empty", "architecture"])
def test_a_file_that_is_no_model_is_a_problem_not_a_crash(tiny_gguf: Path, tmp_path: Path, damage: str) -> None:
    content = tiny_gguf.read_bytes()
    path = tmp_path / f"{damage}.gguf"
    if damage == "text":
        path.write_text("# this is a note\n" * 100, encoding="utf-8")
    elif damage != "missing":
        kept = {"cut": content[:-5000], "empty": b"", "architecture": content.replace(b"qwen2", b"qwenX")}
        path.write_bytes(kept[damage])

    with pytest.raises(Problem, match=path.name):
        Engine(path, context=64, slots=1, threads=THREADS)


def test_more_context_than_the_model_knows_is_refused(tiny_gguf: Path) -> None:
    with pytest.raises(Problem, match="trained for 512"):
        Engine(tiny_gguf, context=513, slots=1, threads=THREADS)


def test_the_default_is_safe() -> None:
    assert default_threads(8) == Threads(decode=1, prefill=8, waiting="PASSIVE")


SCRIPT = """
import os, sys
from pathlib import Path
{before}
from potstill.models.engine import Engine, Sampling, Threads
engine = Engine(Path(sys.argv[1]), context=64, slots=2, threads=Threads(1, 1, "{waiting}"))
sampling = Sampling(temperature=0.0, top_p=1.0, top_k=0, seed=1, max_tokens=8, repeat_penalty=1.0)
pieces = engine.stream([{{"role": "user", "content": "hello"}}], sampling)
next(pieces)
print(engine.waiting, os.environ.get("OMP_WAIT_POLICY"))
"""


def run_script(gguf: Path, *, waiting: str, before: str = "", script: str = SCRIPT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(library.__file__).parents[2])}
    environment.pop("OMP_WAIT_POLICY", None)
    return subprocess.run(
        [sys.executable, "-c", script.format(waiting=waiting, before=before), str(gguf)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("waiting", ["PASSIVE", "ACTIVE"])
def test_an_unfinished_process_ends_quietly_and_with_the_policy_it_asked_for(tiny_gguf: Path, waiting: str) -> None:
    finished = run_script(tiny_gguf, waiting=waiting)

    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == f"{waiting} None\n"  # nothing of llama.cpp's log, and the environment as it was


def test_active_waiting_leaves_the_machine_alone_between_answers(tiny_gguf: Path) -> None:
    idle = "import time; list(pieces); time.sleep(0.2); begin = time.process_time(); time.sleep(0.5)"
    script = SCRIPT.replace("Threads(1, 1,", "Threads(2, 2,") + idle + "; print(time.process_time() - begin)"

    finished = run_script(tiny_gguf, waiting="ACTIVE", script=script)

    assert float(finished.stdout.split()[-1]) < 0.1


def test_a_policy_that_came_too_late_is_not_claimed(tiny_gguf: Path) -> None:
    finished = run_script(tiny_gguf, waiting="ACTIVE", before="import xllamacpp")

    assert finished.stdout == "UNSET None\n"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_closing_leaves_nothing_open(tiny_gguf: Path) -> None:
    def open_sockets() -> int:
        return sum("socket" in os.readlink(path) for path in list(Path("/proc/self/fd").iterdir()) if path.is_symlink())

    before = open_sockets()
    engine = Engine(tiny_gguf, context=64, slots=1, threads=THREADS)
    folder = engine._socket.path.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert open_sockets() > before
    engine.close()

    assert open_sockets() == before
    assert not folder.exists()
