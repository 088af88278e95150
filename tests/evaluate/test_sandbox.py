"""The sandbox runs programs within their limits; after each attack a harmless program must still run."""

from __future__ import annotations

import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from confined import KINDS, LIMITS, last_line, run

from potstill.evaluate import sandbox
from potstill.evaluate.sandbox import Confinement, Outcome, confinement, run_python, try_walls
from potstill.problem import Problem


@pytest.mark.usefixtures("walls")
class TestOrdinaryPrograms:
    def test_output_errors_and_exit_code_come_back(self) -> None:
        outcome = run("import sys\nprint('你好')\nprint('oh', file=sys.stderr)\nsys.exit(3)")
        assert outcome == Outcome("error", 3, "你好\n", "oh\n", outcome.seconds)

    def test_a_traceback_names_the_program_and_the_line(self) -> None:
        outcome = run("x = 1\nx / 0\n")
        assert outcome.status == "error"
        assert 'program.py", line 2' in outcome.stderr
        assert last_line(outcome) == "ZeroDivisionError: division by zero"

    def test_a_light_program_has_what_it_needs(self) -> None:
        source = """
            import asyncio, concurrent.futures, multiprocessing, os, sqlite3, subprocess, sys, tempfile

            if __name__ == "__main__":
                with tempfile.NamedTemporaryFile("w+") as file:
                    file.write("一行")
                with open("notes.txt", "w") as file:
                    file.write("two")
                print(open("notes.txt").read(), os.getcwd())
                print(asyncio.run(asyncio.sleep(0.01, "slept")))
                with concurrent.futures.ThreadPoolExecutor(2) as pool:
                    print(list(pool.map(abs, [-1, -2])))
                with multiprocessing.Pool(2) as pool:
                    print(pool.map(abs, [-3, -4]))
                print(subprocess.run([sys.executable, "-c", "print(5)"], capture_output=True).stdout)
                print(sqlite3.connect(":memory:").execute("select 6").fetchone())
                exit()
        """
        outcome = run(source, memory_mb=512)
        assert outcome.stderr == ""
        assert outcome.stdout == "two /tmp\nslept\n[1, 2]\n[3, 4]\nb'5\\n'\n(6,)\n"

    def test_input_finds_an_end(self) -> None:
        assert last_line(run("input()")) == "EOFError: EOF when reading a line"

    def test_hashes_are_the_same_in_each_run(self) -> None:
        source = "print(hash('potstill'), list({'a', 'b', 'c', 'd', 'e'}))"
        found = run(source).stdout
        assert len(found.split()) == 6 and found == run(source).stdout

    @pytest.mark.parametrize("source", ["print('\udc80')", "print('\0')", "if"])
    def test_source_that_is_no_python_is_an_error_of_the_program(self, source: str) -> None:
        assert run(source).status == "error"

    def test_nothing_of_one_run_reaches_the_next(self) -> None:
        assert run("open('/tmp/left', 'w').close()").status == "ok"
        assert run("import os; print(os.listdir('/tmp'))").stdout == "['program.py']\n"

    def test_runs_side_by_side_do_not_mix(self) -> None:
        source = "import os, time\nopen('/tmp/mine', 'x').close()\ntime.sleep(0.1)\nprint({})"
        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(run, map(source.format, range(8))))
        assert [outcome.stdout for outcome in outcomes] == [f"{number}\n" for number in range(8)]

    def test_packages_of_this_machine_are_out_of_sight(self) -> None:
        assert last_line(run("import pytest")).startswith("ModuleNotFoundError")


@pytest.mark.usefixtures("walls")
class TestLimits:
    def test_an_endless_loop_ends_by_its_cpu_time(self) -> None:
        outcome = run("print('begun', flush=True)\nwhile True: pass", cpu_s=0.3)
        assert (outcome.status, outcome.exit_code, outcome.stdout) == ("timeout", None, "begun\n")

    def test_cpu_time_counts_for_all_processes_together(self) -> None:
        source = """
            import os, time
            for _ in range(100):
                if not os.fork():
                    while time.process_time() < 0.05: pass
                    os._exit(0)
                os.wait()
        """
        assert run(source, cpu_s=0.3).status == "timeout"

    def test_sleep_ends_by_the_wall_clock(self) -> None:
        outcome = run("import time\ntime.sleep(60)", wall_s=0.2)
        assert (outcome.status, outcome.exit_code) == ("timeout", None)

    @pytest.mark.parametrize("rest", ["time.sleep(60)", "while True: pass"])
    def test_ignoring_signals_does_not_help(self, rest: str) -> None:
        source = """
            import signal, time
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
        """
        assert run(textwrap.dedent(source) + rest, wall_s=1, cpu_s=0.3).status == "timeout"

    def test_limits_cannot_be_raised(self) -> None:
        source = """
            import resource
            for name in ("AS", "NPROC", "FSIZE", "CPU", "NOFILE"):
                try:
                    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (resource.RLIM_INFINITY,) * 2)
                    print("raised", name)
                except ValueError:
                    pass
        """
        outcome = run(source)
        assert (outcome.status, outcome.stdout) == ("ok", "")

    @pytest.mark.parametrize("chunk", ["bytearray(1 << 30)", "b'x' * (1 << 20)", "mmap.mmap(-1, 1 << 24)"])
    def test_a_memory_bomb_fails_in_its_own_process(self, chunk: str) -> None:
        outcome = run(f"import mmap\nx = []\nwhile True: x.append({chunk})", memory_mb=128)
        assert outcome.status in ("memory", "error")
        assert "MemoryError" in outcome.stderr or "Cannot allocate memory" in outcome.stderr

    @pytest.mark.parametrize("chunk", ["bytearray(60 << 20)", "mmap.mmap(-1, 60 << 20)"])
    def test_memory_counts_for_all_processes_together(self, chunk: str) -> None:
        source = f"""
            import mmap, os, time
            for _ in range(2):
                os.fork()
            x = {chunk}
            x[:] = b"x" * len(x)
            time.sleep(60)
        """
        assert run(source, memory_mb=180).status == "memory"

    def test_tmp_fills_up_and_no_file_grows_beyond_the_limit(self) -> None:
        source = """
            for folder in ("/tmp", "/dev/shm"):
                try:
                    with open(folder + "/big", "wb") as file:
                        file.truncate(9 << 20)
                except OSError as error:
                    print(error.strerror)
                try:
                    for number in range(99):
                        with open(f"{folder}/{number}", "wb") as file:
                            file.write(bytes(1 << 20))
                except OSError as error:
                    print(error.strerror)
        """
        assert run(source).stdout == "File too large\nNo space left on device\n" * 2

    def test_a_flood_of_empty_files_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sandbox, "MOST_FILES", 1000)
        outcome = run("number = 0\nwhile True:\n  open(f'{number}', 'w').close()\n  number += 1")
        assert outcome.status == "killed" or last_line(outcome).startswith("OSError: [Errno 28]")

    @pytest.mark.parametrize("stream", ["stdout", "stderr"])
    def test_endless_output_is_cut_and_ended(self, stream: str) -> None:
        outcome = run(f"import sys\nwhile True: sys.{stream}.write('x' * 999)")
        assert outcome.status == "killed"
        assert len(getattr(outcome, stream)) == LIMITS.output_kb << 10

    def test_threads_are_limited(self) -> None:
        source = """
            import threading, time
            threading.stack_size(1 << 16)  # else the limit on memory would come first
            for _ in range(30):
                threading.Thread(target=time.sleep, args=[60], daemon=True).start()
        """
        assert last_line(run(source)) == "RuntimeError: can't start new thread"

    def test_a_fork_bomb_stays_small(self) -> None:
        counting = """
            import os, time
            try:
                for number in range(50):
                    if not os.fork():
                        time.sleep(60)
            except BlockingIOError:
                print(number)
        """
        counted = run(counting).stdout
        assert counted and int(counted) <= LIMITS.processes + 2, "forks aren't limited, so no bomb is set off"
        bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
        assert run(bomb, cpu_s=0.3, wall_s=2).status == "timeout"


class TestWithoutWalls:
    @pytest.fixture
    def nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine that can't confine."""
        monkeypatch.setattr(sandbox, "confinement", lambda: Confinement(False, (), "no namespaces here"))

    def test_nothing_runs_where_it_cannot_be_confined(self, nothing: None, tmp_path: Path) -> None:
        with pytest.raises(Problem, match="no namespaces here"):
            run(f"open({str(tmp_path / 'ran')!r}, 'w')")
        assert not (tmp_path / "ran").exists()

    def test_unsafe_runs_it_all_the_same(self, nothing: None) -> None:
        outcome = run_python("print(1); exit(4)", LIMITS, unsafe=True)
        assert (outcome.status, outcome.exit_code, outcome.stdout) == ("error", 4, "1\n")
        assert run_python("while True: pass", replace(LIMITS, wall_s=0.2), unsafe=True).status == "timeout"

    def test_walls_with_a_hole_are_not_available(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if not KINDS["namespaces"].available:
            pytest.skip(f"no confinement: {KINDS['namespaces'].reason}")
        monkeypatch.setattr(sandbox.walls, "secret_folders", lambda: ["/usr/bin"])
        found = try_walls("namespaces")
        assert not found.available and "open: /usr/bin" in found.reason

    def test_the_reason_says_what_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing() -> bytes:
            raise RuntimeError("libseccomp is missing")

        monkeypatch.setattr(sandbox.walls, "system_call_filter", missing)
        assert try_walls("namespaces") == Confinement(False, (), "namespaces: libseccomp is missing")

    def test_this_machine_gives_walls_or_a_reason(self) -> None:
        found = confinement()
        assert found.features[0] in KINDS if found.available else found.reason
