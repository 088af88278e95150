"""The sandbox against programs that mean harm; after each attack a harmless program must still run."""

from __future__ import annotations

import os
import socket
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from potstill.evaluate import sandbox
from potstill.evaluate.sandbox import Confinement, Limits, Outcome, confinement, run_python, try_walls
from potstill.problem import Problem

LIMITS = Limits(cpu_s=10, wall_s=60, memory_mb=256, processes=8, file_mb=8, output_kb=64)
KINDS = {kind: try_walls(kind) for kind in ("bubblewrap", "namespaces")}


@pytest.fixture(params=KINDS)
def walls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Confinement]:
    """Each kind of wall that this machine gives, in turn; afterwards, all must be as it was."""
    found = KINDS[request.param]
    if not found.available:
        pytest.skip(f"no confinement: {found.reason}")
    monkeypatch.setattr(sandbox, "confinement", lambda: found)
    yield found
    assert run_python("print(6 * 7)", LIMITS).stdout == "42\n"


def run(source: str, **limits: float) -> Outcome:
    """Run `source` under the usual limits, or other ones."""
    return run_python(textwrap.dedent(source), replace(LIMITS, **limits))


def last_line(outcome: Outcome) -> str:
    """The last line of a traceback."""
    return outcome.stderr.strip().rpartition("\n")[2]


def running(marker: str) -> list[str]:
    """Command lines of this machine's processes that hold `marker`, once the kernel has cleaned up."""
    found: list[str] = []
    for _ in range(50):
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes()
            except OSError:
                continue
            if marker.encode() in line:
                found.append(line.decode("utf-8", "replace"))
        if not found:
            break
        time.sleep(0.02)
    return found


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
        assert run(source).stdout == run(source).stdout

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


@pytest.mark.usefixtures("walls")
class TestSight:
    def test_secrets_are_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("s3cret")
        paths = ["/etc/shadow", "/etc/passwd", tmp_path / "secret", Path.home() / ".bashrc", __file__]
        paths += ["/proc/1/environ", "/proc/1/maps", sandbox.__file__]
        folders = [
            Path.home(),
            Path.cwd(),
            tmp_path,
            *Path(__file__).parents[:2],
            *Path(sandbox.__file__).parents[:3],
        ]
        source = f"""
            import os
            for path in {list(map(str, paths))}:
                try:
                    print(path, open(path).read())
                except OSError:
                    pass
            for folder in {list(map(str, folders))}:
                try:
                    print(folder, os.listdir(folder)) if os.listdir(folder) else None
                except OSError:
                    pass
        """
        outcome = run(source)
        assert (outcome.status, outcome.stdout) == ("ok", "")

    def test_links_lead_nowhere(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("s3cret")
        source = f"""
            import os
            targets = ["/etc/shadow", {str(tmp_path / "secret")!r}, "/proc/1/root/etc/shadow", "/proc/1/cwd"]
            targets += ["/proc/self/root/../../etc/shadow", "../" * 30 + "etc/shadow", "/proc/1/fd/0"]
            for number, target in enumerate(targets):
                os.symlink(target, f"/tmp/link{{number}}")
                try:
                    print(target, open(f"/tmp/link{{number}}").read())
                except OSError:
                    pass
            try:
                os.link("/usr/bin/su", "/tmp/su")
                print("linked")
            except OSError:
                pass
        """
        outcome = run(source)
        assert (outcome.status, outcome.stdout) == ("ok", "")

    def test_the_environment_is_clean(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POTSTILL_SECRET", "s3cret")
        outcome = run("import os; print(sorted(os.environ.items()))")
        assert "HOME" in outcome.stdout
        assert "s3cret" not in outcome.stdout and "SECRET" not in outcome.stdout

    def test_no_descriptor_is_inherited(self, tmp_path: Path) -> None:
        source = """
            import os
            for number in range(3, 5000):
                try:
                    print("open", number, os.fstat(number))
                except OSError:
                    pass
            for number in range(3):
                print(os.isatty(number))
            print(os.read(0, 9))
        """
        with (tmp_path / "secret").open("w+") as file:
            os.set_inheritable(file.fileno(), True)
            assert run(source).stdout == "False\nFalse\nFalse\nb''\n"

    def test_only_its_own_processes_are_seen(self) -> None:
        source = f"""
            import os
            for pid in (*range(1, 5000), {os.getpid()}, {os.getppid()}):
                try:
                    os.kill(pid, 0)
                    print(pid)
                except ProcessLookupError:
                    pass
                except PermissionError:
                    print(pid)
        """
        assert set(run(source).stdout.split()) <= {"1", "2", "3"}


@pytest.mark.usefixtures("walls")
class TestReach:
    def test_nothing_outside_tmp_can_be_written(self, tmp_path: Path) -> None:
        source = f"""
            import os
            def attempt(action, *arguments):
                try:
                    action(*arguments)
                    print("done", action, arguments)
                except OSError:
                    pass
            folders = ["/", "/usr", "/usr/bin", "/usr/lib", "/etc", "/dev", "/proc", "/proc/sys/kernel"]
            folders += ["/home", "/root", "/var/tmp", "/run", "/sys", "/python", os.path.dirname(os.__file__)]
            for folder in folders + [{str(tmp_path)!r}, {os.getcwd()!r}]:
                attempt(open, folder + "/new", "w")
                attempt(os.mkdir, folder + "/new")
                attempt(os.symlink, "/tmp", folder + "/new")
                attempt(os.rename, "/tmp/program.py", folder + "/new")
                attempt(os.chmod, folder, 0o777)
            attempt(open, os.__file__, "r+")
        """
        outcome = run(source)
        assert (outcome.status, outcome.stdout) == ("ok", "")
        assert list(tmp_path.iterdir()) == []

    def test_the_network_is_out_of_reach(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
            server.settimeout(0.05)
            local.bind(f"\0potstill-{os.getpid()}")
            local.listen()
            source = f"""
                import ctypes, socket
                for target in (("127.0.0.1", {server.getsockname()[1]}), "\\0potstill-{os.getpid()}"):
                    try:
                        family = socket.AF_UNIX if isinstance(target, str) else socket.AF_INET
                        socket.socket(family).connect(target)
                        print("connected", target)
                    except OSError:
                        pass
                libc = ctypes.CDLL(None)
                for family in (*range(2, 46), (1 << 32) + 2):
                    for kind in (1, 2, 3):
                        if libc.socket(ctypes.c_long(family), kind, 0) != -1:
                            print("opened", family)
            """
            outcome = run(source)
            with pytest.raises(TimeoutError):
                server.accept()
        assert (outcome.status, outcome.stdout) == ("ok", "")

    def test_its_parents_survive_its_signals(self) -> None:
        source = f"""
            import os, signal
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
            for number in signal.valid_signals():
                for pid in (1, os.getppid(), {os.getpid()}, {os.getppid()}):
                    try:
                        os.kill(pid, number)
                    except OSError:
                        pass
            for pid in (0, -1):
                try:
                    os.kill(pid, signal.SIGTERM)
                except ProcessLookupError:
                    print("alone")
        """
        outcome = run(source)
        assert (outcome.status, outcome.stdout) == ("ok", "alone\n")

    def test_killing_itself_is_told_as_such(self) -> None:
        outcome = run("import os; os.kill(os.getpid(), 9)")
        assert (outcome.status, outcome.exit_code) == ("killed", -9)

    def test_it_has_no_rights_and_gets_none(self) -> None:
        source = """
            import ctypes, os
            libc = ctypes.CDLL(None)
            clone = {"x86_64": 56}.get(os.uname().machine, 220)
            attempts = {
                "trace the keeper": lambda: libc.ptrace(16, 1, 0, 0),
                "be traced": lambda: libc.ptrace(0, 0, 0, 0),
                "read the keeper": lambda: libc.process_vm_readv(1, 0, 0, 0, 0, 0),
                "open the keeper": lambda: libc.open(b"/proc/1/mem", 2),
                "user namespace": lambda: libc.unshare(0x10000000),
                "namespace by clone": lambda: libc.syscall(clone, 0x10000011, 0, 0, 0, 0),
                "mount": lambda: libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None),
                "unmount": lambda: libc.umount2(b"/proc", 2),
                "chroot": lambda: libc.chroot(b"/tmp"),
                "root": lambda: libc.setuid(0),
                "another user": lambda: libc.setuid(12345),
                "host name": lambda: libc.sethostname(b"x", 1),
                "uncounted memory": lambda: libc.memfd_create(b"x", 0),
                "shared memory": lambda: libc.shmget(0, 1 << 20, 0o1600),
                "disk": lambda: libc.mknod(b"/tmp/disk", 0o60600, 0xFD00),
                "keys": lambda: libc.syscall(250 if clone == 56 else 219, 0, -3, 0, 0, 0),
            }
            for name, attempt in attempts.items():
                if attempt() != -1:
                    print("succeeded:", name)
            print(os.getuid() != 0, os.geteuid() != 0, os.getgid() != 0)
        """
        outcome = run(source)
        assert (outcome.status, outcome.stdout) == ("ok", "True True True\n")

    def test_setuid_programs_give_no_rights(self) -> None:
        source = """
            import subprocess
            for command in (["su", "-c", "id -u"], ["sudo", "-n", "id", "-u"], ["newgrp", "root"]):
                try:
                    subprocess.run(command, stdin=subprocess.DEVNULL, timeout=3)
                except OSError:
                    pass
        """
        assert "0" not in run(source).stdout.split()

    def test_a_false_report_is_not_believed(self) -> None:
        source = """
            import os
            for number in range(3, 256):
                try:
                    os.write(number, b'{"exit": 0, "exceeded": null, "seconds": 0}\\n')
                except OSError:
                    pass
            raise SystemExit(7)
        """
        assert run(source).exit_code == 7

    def test_a_daemon_dies_with_its_program(self) -> None:
        marker = f"{os.getpid()}-{time.monotonic_ns()}"
        source = f"""
            import os, sys, time
            if os.fork():
                time.sleep(0.1)
                os._exit(0)
            os.setsid()
            if os.fork():
                os._exit(0)
            os.closerange(0, 3)
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", "{marker}"])
        """
        assert run(source).status == "ok"
        assert running(marker) == []

    def test_nothing_is_left_after_a_timeout_either(self) -> None:
        marker = f"{os.getpid()}-{time.monotonic_ns()}"
        source = f"""
            import subprocess, sys, time
            for _ in range(3):
                sleeper = [sys.executable, "-c", "import time; time.sleep(60)", "{marker}"]
                subprocess.Popen(sleeper, start_new_session=True)
            time.sleep(60)
        """
        assert run(source, wall_s=0.4).status == "timeout"
        assert running(marker) == []


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
