"""Runs Python that nobody has read: a model wrote it.

In:  the text of a program, and how much it may use.
Out: how it ended, what it printed, how long it took.
Does not know: models, tasks, scores, recipes.

The program gets namespaces of its own (files, processes, network, IPC, host name), built by bubblewrap where
it works and by `sandbox_child.py` elsewhere; in there, a user without rights, Landlock, a seccomp filter and
resource limits. It sees the interpreter with its standard library, /usr, and an empty /tmp that dies with it
(`sandbox_walls.py`). Where these walls can't be built, nothing runs, except by `unsafe`. Linux 5.14 or newer.

An exit code of 0 only says that the program ended by its own wish: a caller that appends checks to a program
must look for something that only passed checks could have printed.
"""

from __future__ import annotations

import functools
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from potstill.evaluate import sandbox_walls as walls
from potstill.problem import Problem

Status = Literal["ok", "error", "timeout", "memory", "killed"]

EXCEEDED: dict[str | None, Status] = {"cpu": "timeout", "memory": "memory"}
SETUP_S, DRAIN_S, LATE_S = 60.0, 5.0, 1.0
MOST_FILES = 20_000
CHILD = Path(__file__).with_name("sandbox_child.py")
PROBE = """
import os, socket
faults = [folder for folder in {secret} if os.path.isdir(folder) and os.listdir(folder)]
for path in ("/", "/usr", "/dev"):
    try:
        open(os.path.join(path, "probe"), "w")
        faults.append("writable " + path)
    except OSError:
        pass
try:
    socket.socket(socket.AF_INET)
    faults.append("network")
except OSError:
    pass
if os.getppid() != 1 or os.getuid() == 0:
    faults.append("process namespace")
with open("/tmp/probe", "w") as file:
    file.write("a private folder")
print("confined" if not faults else "open: " + ", ".join(faults))
"""


@dataclass(frozen=True)
class Limits:
    """What one program may use: all its processes together, except `file_mb`.

    Args:
        cpu_s: CPU seconds.
        wall_s: seconds from the program's start to its forced end.
        memory_mb: memory, its files in /tmp included; one process's address space as well.
        processes: processes and threads at a time.
        file_mb: size of a file, and of /tmp as a whole.
        output_kb: size of standard output, and of standard error; at more, the program is killed.
    """

    cpu_s: float
    wall_s: float
    memory_mb: int
    processes: int
    file_mb: int
    output_kb: int


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Args:
        status: `ok` (exit code 0), `error` (another exit code), `timeout` (CPU or wall clock), `memory`,
            `killed` (a signal, too much output, too many files).
        exit_code: None where it was ended from outside.
        stdout, stderr: at most `output_kb` each; bytes that aren't UTF-8 are replaced.
        seconds: wall clock, without the building of the sandbox.
    """

    status: Status
    exit_code: int | None
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True)
class Confinement:
    """What this machine gives: the walls that stand, or (not available) the reason why not."""

    available: bool
    features: tuple[str, ...]
    reason: str


def run_python(source: str, limits: Limits, *, unsafe: bool = False) -> Outcome:
    """Run a program behind walls and wait for its end, at most `wall_s` and a moment.

    Args:
        source: the program; it sees only the standard library, no standard input, `/tmp` as its folder.
        unsafe: run it without walls (a bare process with your rights) where there can be none.

    Raises: Problem where this machine can't confine it and `unsafe` is false.
    """
    found = confinement()
    if found.available:
        return _Run(source, limits, found.features[0]).run()
    if not unsafe:
        raise Problem(
            f"model-written code was not run, since this machine can't confine it: {found.reason}",
            "Install bubblewrap and libseccomp, allow user namespaces, or run it with your rights (--unsafe)",
        )
    with tempfile.TemporaryDirectory() as folder:
        return _Run(source, limits, "none", folder).run()


@functools.cache
def confinement() -> Confinement:
    """What this machine gives, by trying it once: bubblewrap first, then our own launcher."""
    if sys.platform != "linux":
        return Confinement(False, (), "it takes Linux namespaces")
    reasons = []
    for kind in ("bubblewrap", "namespaces"):
        found = try_walls(kind)
        if found.available:
            return found
        reasons.append(found.reason)
    return Confinement(False, (), "; ".join(reasons))


def try_walls(kind: str) -> Confinement:
    """Build the walls of one kind (`bubblewrap` or `namespaces`), and look for holes from within."""
    if kind == "bubblewrap" and shutil.which("bwrap") is None:
        return Confinement(False, (), "bubblewrap: not installed")
    limits = Limits(cpu_s=5, wall_s=60, memory_mb=256, processes=4, file_mb=1, output_kb=16)
    try:
        trial = _Run(PROBE.format(secret=walls.secret_folders()), limits, kind)
        outcome = trial.run()
    except (Problem, OSError, RuntimeError) as error:
        return Confinement(False, (), f"{kind}: {error.what if isinstance(error, Problem) else error}")
    if outcome.stdout != "confined\n":
        said = " ".join((outcome.stdout + outcome.stderr).split())[-300:]
        return Confinement(False, (), f"{kind}: the trial program was not confined ({said or outcome.status})")
    return Confinement(True, (kind, *trial.features), "")


@dataclass
class _Run:
    """One program: what to start, and what came back so far."""

    source: str
    limits: Limits
    kind: str
    folder: str = "/tmp"
    features: tuple[str, ...] = ()
    began: float = 0.0
    failed: str | None = None
    ended: dict[str, Any] | None = None
    killed: Literal["timeout", "killed"] | None = None
    output: dict[str, bytearray] = field(default_factory=lambda: defaultdict(bytearray))

    def run(self) -> Outcome:
        """Start, listen, end, judge. Raises Problem where the walls could not be built."""
        reader, writer = os.pipe()
        with tempfile.TemporaryFile() as letter, open(reader, "rb", buffering=0) as status:
            try:
                letter.write(json.dumps(self._settings(writer)).encode())
                letter.seek(0)
                process = subprocess.Popen(
                    self._command(),
                    stdin=letter,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={} if self.kind == "bubblewrap" else walls.library_path(walls.base_prefix()),
                    pass_fds=[writer],
                    start_new_session=True,
                    umask=0o022,
                    cwd="/",
                )
            finally:
                os.close(writer)
            with process:
                try:
                    self._listen(process, status)
                finally:
                    _kill(process)
        return self._judge(time.monotonic() - self.began)

    def _settings(self, status: int) -> dict[str, Any]:
        """What the child is told. Hashes have a fixed seed, so that a rerun gives the same result."""
        confined = self.kind != "none"
        shown = walls.inside if confined else str
        environment = {"HOME": self.folder, "TMPDIR": self.folder, "PATH": "/usr/bin:/bin", "USER": "nobody"}
        environment |= {"LANG": "C.UTF-8", "TZ": "UTC", "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1"}
        environment |= {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
        environment |= walls.library_path(shown(walls.base_prefix()))
        return {
            "kind": self.kind,
            "status": status,
            "source": self.source,
            "limits": asdict(self.limits) | {"files": MOST_FILES},
            "room": walls.room() if confined else [],
            "user": walls.free_user() if confined and walls.privileged() else None,
            "filter": walls.system_call_filter().hex() if confined else "",
            "folder": self.folder,
            "python": shown(walls.interpreter()),
            "environment": environment,
        }

    def _command(self) -> list[str]:
        child = ["-I", "-S", "-c", CHILD.read_text(encoding="utf-8")]
        if self.kind != "bubblewrap":
            return [walls.interpreter(), *child]
        return [*walls.bubblewrap(self.limits.file_mb << 20), walls.inside(walls.interpreter()), *child]

    def _listen(self, process: subprocess.Popen[bytes], status: IO[bytes]) -> None:
        """Collect output until everything inside has ended, or until it has to be ended."""
        assert process.stdout is not None and process.stderr is not None
        deadline = time.monotonic() + SETUP_S
        with selectors.DefaultSelector() as selector:
            for name, stream in (("out", process.stdout), ("err", process.stderr), ("status", status)):
                selector.register(stream, selectors.EVENT_READ, name)
            while selector.get_map():
                left = deadline - time.monotonic()
                events = selector.select(max(left, 0))
                if not events or left < -LATE_S:  # a busy machine: what came in time is read, late or not
                    break
                for key, _ in events:
                    chunk = os.read(key.fd, 65536)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    elif key.data == "status":
                        deadline = self._understand(chunk, deadline)
                    elif not self._keep_output(key.data, chunk):
                        self.killed = "killed"
                        return
            if selector.get_map() and self.ended is None:
                self.killed = "timeout"

    def _keep_output(self, name: str, chunk: bytes) -> bool:
        most, kept = self.limits.output_kb << 10, self.output[name]
        fits = len(kept) + len(chunk) <= most
        kept += chunk[: most - len(kept)]
        return fits

    def _understand(self, chunk: bytes, deadline: float) -> float:
        """Read what the child says of itself; the new deadline."""
        self.output["status"] += chunk
        *lines, rest = bytes(self.output["status"]).split(b"\n")
        self.output["status"] = bytearray(rest)
        for line in lines:
            said = json.loads(line)
            if "features" in said:
                self.features, self.began = tuple(said["features"]), time.monotonic()
                deadline = self.began + self.limits.wall_s
            elif "failed" in said:
                self.failed = said["failed"]
            else:
                self.ended = said
                deadline = time.monotonic() + DRAIN_S
        return deadline

    def _judge(self, seconds: float) -> Outcome:
        out, err = (self.output[name].decode("utf-8", "replace") for name in ("out", "err"))
        if self.failed is not None or (not self.features and self.kind != "none"):
            reason = self.failed or err.strip() or "no answer"
            raise Problem(f"the sandbox could not be built: {reason}", "Free memory and processes, and try again")
        ended = self.ended or {"exit": None, "exceeded": None, "seconds": seconds}
        code, exceeded = ended["exit"], ended["exceeded"]
        status: Status
        if self.killed is not None:
            status, code = self.killed, None
        elif exceeded is not None or code is None:
            status = EXCEEDED.get(exceeded, "killed")
        elif code < 0:
            status = "timeout" if -code == signal.SIGXCPU else "killed"
        elif code > 0 and err.rstrip().rpartition("\n")[2].startswith("MemoryError"):
            status = "memory"
        else:
            status = "error" if code else "ok"
        return Outcome(status, code, out, err, ended["seconds"])


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End launcher and keeper; the kernel then ends all that the keeper's namespace holds."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
