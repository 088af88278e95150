"""The inside of the sandbox: builds the walls, then watches the program from within them.

In:  one JSON object on standard input (`sandbox.py` writes it), and three pipes: output, errors, status.
Out: JSON lines on the status pipe: `features` once every wall stands, then `exit`; or `failed`.
Does not know: potstill, models, scores, what the program is for.

This file is run as text by a bare interpreter (`python -I -S -c`), partly where nothing but the standard
library can be seen, so it imports nothing of ours. Three processes take part: the *launcher* outside, the
*keeper* (process 1 of the sandbox; what still lives when it ends is killed by the kernel), and the *program*.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False  # typing itself takes milliseconds to import, in every run
if TYPE_CHECKING:
    from typing import Any

POLL_S = 0.02
COUNTED_MEMORY = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
NEW_MOUNT, NEW_UTS, NEW_IPC = 0x00020000, 0x04000000, 0x08000000
NEW_USER, NEW_PID, NEW_NET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
ATTR_READ_ONLY, ATTR_NOSUID, ATTR_NODEV, AT_RECURSIVE, MNT_DETACH = 1, 2, 4, 0x8000, 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
MOUNT_SETATTR, LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 442, 444, 445, 446
READ_FOLDER, READ_FILE, USE_DEVICE = 0b1101, 0b101, 0b1100_0000_0000_0110

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def check(what: str, result: int) -> int:
    """Pass a system call's result on, or raise OSError that names what failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(what: str, number: int, *arguments: Any) -> int:
    """Call the kernel by number, where the C library has no function for it."""
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return check(what, libc.syscall(ctypes.c_long(number), *wide))


def prctl(what: str, option: int, *arguments: Any) -> None:
    """Set a property of this process."""
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    check(what, libc.prctl(option, *wide, *[ctypes.c_ulong(0)] * (4 - len(wide))))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    arguments = [text.encode() for text in (source, target, kind)]
    result = libc.mount(*arguments, ctypes.c_ulong(flags), data.encode())
    check(f"mount {kind or source} at {target}", result)


def seal(path: str, attributes: int, recursive: int) -> None:
    """Make the mount at `path` (`recursive`: those below too) read-only, or deaf to setuid or devices."""
    setting = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    syscall(f"seal {path}", MOUNT_SETATTR, -100, path.encode(), recursive, ctypes.byref(setting), 32)


def write_text(path: str, text: str) -> None:
    """Write a kernel file in one go."""
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def enter_namespaces(own_user: bool, status: int) -> None:
    """Return as process 1 of new namespaces; the launcher stays behind in here and ends with it.

    Args:
        own_user: also take a user namespace, which lets an ordinary user take the others.
    """
    user, group = os.getuid(), os.getgid()
    flags = NEW_MOUNT | NEW_PID | NEW_NET | NEW_IPC | NEW_UTS | (NEW_USER if own_user else 0)
    check("take namespaces", libc.unshare(ctypes.c_int(flags)))
    if own_user:
        write_text("/proc/self/setgroups", "deny")
        write_text("/proc/self/uid_map", f"1000 {user} 1")
        write_text("/proc/self/gid_map", f"1000 {group} 1")
    prctl("die with the caller", PR_SET_PDEATHSIG, int(signal.SIGKILL))
    keeper = os.fork()
    if keeper:
        for descriptor in (0, 1, 2, status):
            os.close(descriptor)
        os.waitpid(keeper, 0)
        os._exit(0)
    prctl("die with the launcher", PR_SET_PDEATHSIG, int(signal.SIGKILL))


def build_root(room: list[list[str]], limits: dict[str, Any]) -> None:
    """Replace the whole file system by the few read-only things that `room` names, and an empty /tmp."""
    pivot = PIVOT_ROOT[os.uname().machine]
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    for name in ("old", "new"):
        os.mkdir(f"/tmp/{name}")
    mount("tmpfs", "/tmp/new", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    syscall("pivot_root", pivot, b"/tmp", b"/tmp/old")
    os.chdir("/")
    for kind, source, target in room:
        furnish(kind, source, f"/new{target}", limits)
    os.chdir("/new")
    syscall("pivot_root", pivot, b".", b".")
    check("leave the old root", libc.umount2(b".", MNT_DETACH))
    os.chdir("/")
    seal("/", ATTR_READ_ONLY, 0)
    check("sethostname", libc.sethostname(b"sandbox", ctypes.c_size_t(7)))


def furnish(kind: str, source: str, target: str, limits: dict[str, Any]) -> None:
    """Put one thing into the new root; `source` is its path in the old one."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if kind == "link":
        os.symlink(source, target)
    elif kind == "file":
        with open(target, "wb"):
            mount(f"/old{source}", target, "", MS_BIND)
        seal(target, ATTR_READ_ONLY | ATTR_NOSUID, 0)
    else:
        os.makedirs(target, exist_ok=True)
    if kind == "folder":
        mount(f"/old{source}", target, "", MS_BIND | MS_REC)
        seal(target, ATTR_READ_ONLY | ATTR_NOSUID | ATTR_NODEV, AT_RECURSIVE)
    elif kind == "hide":
        mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV | 1, "mode=755,size=4k")
    elif kind == "tmp":
        options = f"mode=1777,size={limits['file_mb']}m,nr_inodes={limits['files']}"
        mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, options)
    elif kind == "proc":
        mount("proc", target, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def become(user: int | None) -> None:
    """Turn from root into `user`, for good. None: this process isn't root."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def set_limits(limits: dict[str, Any], spare: int) -> None:
    """Resource limits of the program and of each process it starts."""
    memory, file_size = int(limits["memory_mb"]) << 20, int(limits["file_mb"]) << 20
    wanted = {"AS": memory, "FSIZE": file_size, "CPU": int(limits["cpu_s"]) + 1, "NOFILE": 64, "MEMLOCK": 0}
    # 1, not 0: a core handler that the kernel feeds through a pipe still runs at 0.
    wanted |= {"CORE": 1, "MSGQUEUE": 0, "SIGPENDING": 256, "NPROC": int(limits["processes"]) + spare}
    for name, value in wanted.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            # After CPU seconds the kernel says why (SIGXCPU); a program that ignores it gets one more.
            resource.setrlimit(kind, (value, value + 1 if name == "CPU" and hard != value else value))


def restrict_files(room: list[list[str]]) -> str | None:
    """Landlock: read what `room` names, write below /tmp, touch nothing else, not even /proc.

    Returns: its name and ABI; None on a kernel without it.
    """
    abi = libc.syscall(ctypes.c_long(LANDLOCK_CREATE), None, ctypes.c_long(0), ctypes.c_long(1))
    if abi < 1:
        return None
    every = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    rules = (ctypes.c_uint64 * 3)(every, 3, 3)
    ruleset = syscall("landlock", LANDLOCK_CREATE, ctypes.byref(rules), size, 0)
    for kind, _, target in room:
        if kind not in ("folder", "file", "tmp"):
            continue
        file = USE_DEVICE if target.startswith("/dev/") else READ_FILE
        allowed = {"folder": READ_FOLDER, "tmp": every, "file": file}[kind]
        beneath = os.open(target, os.O_PATH | os.O_CLOEXEC)
        rule = (allowed & every).to_bytes(8, sys.byteorder) + beneath.to_bytes(4, sys.byteorder)
        syscall(f"landlock {target}", LANDLOCK_ADD, ruleset, 1, rule, 0)
        os.close(beneath)
    syscall("landlock", LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)
    return f"landlock {abi}"


def filter_system_calls(compiled: bytes) -> None:
    """Install a compiled seccomp filter; it can't be taken off again."""
    text = ctypes.create_string_buffer(compiled, len(compiled))

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]

    filter_ = Filter(len(compiled) // 8, ctypes.addressof(text))
    prctl("seccomp", PR_SET_SECCOMP, 2, ctypes.byref(filter_))


def run_program(settings: dict[str, Any]) -> None:
    """Shut the last doors, then become the program. Returns only by an exception."""
    status, confined = settings["status"], settings["kind"] != "none"
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    features = []
    if confined:
        os.setsid()
        become(settings["user"])
        set_limits(settings["limits"], 0 if settings["user"] is not None else 2)
        prctl("no_new_privs", PR_SET_NO_NEW_PRIVS, 1)
        landlock = restrict_files(settings["room"])
        filter_system_calls(bytes.fromhex(settings["filter"]))
        features = ["seccomp", "rlimits"] + ([landlock] if landlock else [])
    else:
        with suppress(OSError, ValueError):
            set_limits(settings["limits"], 1 << 20)
    os.chdir(settings["folder"])
    tell(status, {"features": features})
    command = [settings["python"], "-s", "-B", f"{settings['folder']}/program.py"]
    os.execve(command[0], command, settings["environment"])


def tell(status: int, message: dict[str, Any]) -> None:
    """One JSON line to the caller."""
    os.write(status, json.dumps(message).encode() + b"\n")


class Usage:
    """What the whole sandbox uses, read from the /proc of its own process namespace."""

    def __init__(self) -> None:
        self.ticks = os.sysconf("SC_CLK_TCK")

    def measure(self) -> tuple[float, int, int]:
        """CPU seconds (all processes, ended ones too), bytes of memory (/tmp is memory), files in /tmp."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu, memory = ended.ru_utime + ended.ru_stime, 0
        for name in os.listdir("/proc"):
            if name.isdigit() and name != "1":
                with suppress(OSError):  # it ended in between
                    with open(f"/proc/{name}/stat", "rb") as file:
                        cpu += sum(map(int, file.read().rpartition(b")")[2].split()[11:15])) / self.ticks
                    with open(f"/proc/{name}/status", "rb") as file:
                        rows = [line.split() for line in file if line.startswith(COUNTED_MEMORY)]
                    memory += sum(int(row[1]) for row in rows) << 10
        tmp = os.statvfs("/tmp")
        return cpu, memory + (tmp.f_blocks - tmp.f_bfree) * tmp.f_frsize, tmp.f_files - tmp.f_ffree

    def exceeded(self, limits: dict[str, Any]) -> str | None:
        """The first limit that is passed: "cpu", "memory" or "files"."""
        cpu, memory, files = self.measure()
        if cpu > limits["cpu_s"]:
            return "cpu"
        return "memory" if memory > limits["memory_mb"] << 20 else "files" if files > limits["files"] else None


def keep(settings: dict[str, Any]) -> None:
    """Start the program, watch it, tell how it ended. The caller watches the wall clock and the output."""
    status, confined = settings["status"], settings["kind"] != "none"
    with open(f"{settings['folder']}/program.py", "wb") as file:
        file.write(settings["source"].encode("utf-8", "surrogatepass"))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 is immune to what it doesn't handle
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    started = time.monotonic()
    program = os.fork()
    if not program:
        try:
            run_program(settings)
        except BaseException as error:
            tell(status, {"failed": str(error)})
        os._exit(127)
    if confined:
        become(None if settings["user"] is None else settings["user"] + 1)
        prctl("hide the keeper", PR_SET_DUMPABLE, 0)
        prctl("die with the launcher", PR_SET_PDEATHSIG, int(signal.SIGKILL))
    usage, exceeded = Usage(), None
    while (code := reap(program)) is None and exceeded is None:
        wait_for_child(POLL_S)
        exceeded = usage.exceeded(settings["limits"]) if confined else None
    tell(status, {"exit": code, "exceeded": exceeded, "seconds": time.monotonic() - started})


def wait_for_child(seconds: float) -> None:
    """Sleep, but not on when a child ends."""
    if hasattr(signal, "sigtimedwait"):
        signal.sigtimedwait([signal.SIGCHLD], seconds)
    else:
        time.sleep(seconds)


def reap(program: int) -> int | None:
    """Collect the children that have ended; the program's exit code (a signal's number negated) if it has."""
    code = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == program:
                code = os.waitstatus_to_exitcode(ended[1])
    return code


def main() -> None:
    """Read the settings, close what was inherited, build, keep."""
    settings = json.load(sys.stdin)
    status = settings["status"]
    os.closerange(3, status)
    os.closerange(status + 1, 4096)
    os.set_inheritable(status, False)
    try:
        if settings["kind"] == "namespaces":
            enter_namespaces(settings["user"] is None, status)
            build_root(settings["room"], settings["limits"])
        keep(settings)
    except BaseException as error:
        tell(status, {"failed": str(error)})
    os._exit(0)


if __name__ == "__main__":
    main()
