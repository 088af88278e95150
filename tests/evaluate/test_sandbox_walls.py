"""What a program in the sandbox can see and reach; after each attack a harmless program must still run."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from confined import run, running

from potstill.evaluate import sandbox


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
            print("tried")
        """
        found = run(source)
        assert found.stdout.endswith("tried\n") and "0" not in found.stdout.split()

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
