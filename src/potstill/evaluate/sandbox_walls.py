"""What the sandbox is made of: the things it shows, bubblewrap's words for them, the system calls it refuses.

In:  this machine's folders, its interpreter, this process's privileges.
Out: the room as a list, a bubblewrap command, a compiled seccomp filter.
Does not know: programs, limits, how anything is started.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import secrets
import shutil
import socket
import sys
import tempfile
from pathlib import Path

SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
NEW_NAMESPACE_FLAGS = (1 << 17, *(1 << bit for bit in range(25, 31)))
# The numbers, the same on every architecture, for a libseccomp older than the kernel.
NEW_CALLS = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428}
NEW_CALLS |= {"move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "clone3": 435}
NEW_CALLS |= {"pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "memfd_secret": 447}
# fmt: off
DENIED_CALLS = (
    "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "process_madvise", "unshare",
    "setns", "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig",
    "fsmount", "fspick", "mount_setattr", "name_to_handle_at", "open_by_handle_at", "fanotify_init",
    "quotactl", "swapon", "swapoff", "acct", "add_key", "request_key", "keyctl", "bpf", "perf_event_open",
    "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "memfd_create", "memfd_secret",
    "shmget", "semget", "msgget", "mq_open", "init_module", "finit_module", "delete_module", "kexec_load",
    "kexec_file_load", "reboot", "syslog", "vhangup", "personality", "settimeofday", "clock_settime",
    "clock_adjtime", "adjtimex", "sethostname", "setdomainname", "iopl", "ioperm", "modify_ldt",
    "lookup_dcookie", "move_pages", "migrate_pages", "mbind", "set_mempolicy",
)
# fmt: on


def _within(path: str, *folders: str) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def base_prefix() -> str:
    """The folder of the interpreter and its standard library, without the virtual environment around it."""
    return os.path.realpath(sys.base_prefix)


def interpreter() -> str:
    """The interpreter's own file. Raises RuntimeError where it doesn't lie below its prefix."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    candidates = (
        getattr(sys, "_base_executable", sys.executable),
        os.path.join(base_prefix(), "bin", version),
    )
    for path in map(os.path.realpath, candidates):
        if _within(path, base_prefix()) and os.access(path, os.X_OK):
            return path
    raise RuntimeError(f"no interpreter below {base_prefix()}")


def inside(path: str) -> str:
    """Where the sandbox shows the interpreter's paths: there, or below /python (a home stays unnamed)."""
    if not _within(path, base_prefix()) or _within(base_prefix(), *SYSTEM_FOLDERS):
        return path
    return os.path.normpath(os.path.join("/python", os.path.relpath(path, base_prefix())))


def library_path(prefix: str) -> dict[str, str]:
    """The variable by which an interpreter at `prefix` finds its shared library, where it needs one."""
    return {} if _within(prefix, *SYSTEM_FOLDERS) else {"LD_LIBRARY_PATH": f"{prefix}/lib"}


def secret_folders() -> list[str]:
    """Home, project, its environment, working folder: what must show nothing, wherever it lies."""
    needed = (*SYSTEM_FOLDERS, inside(interpreter()))
    folders = {os.path.expanduser("~"), os.getcwd(), sys.prefix, str(Path(__file__).parents[2])}
    return [path for path in sorted(map(os.path.realpath, folders)) if not any(_within(n, path) for n in needed)]


@functools.cache
def room() -> list[list[str]]:
    """What the sandbox holds, in the order of building: [kind, path outside, path inside].

    Kinds: `folder` and `file` (read-only), `link`, `proc`, `tmp`, `hide` (an empty folder over what's there).
    """
    things = []
    for folder in SYSTEM_FOLDERS:
        if os.path.islink(folder):
            things.append(["link", os.readlink(folder), folder])
        elif os.path.isdir(folder):
            things.append(["folder", folder, folder])
    prefix = base_prefix()
    if inside(prefix) != prefix:
        things.append(["folder", prefix, inside(prefix)])
    shown = [source for kind, source, _ in things if kind == "folder"]
    things += [["file", path, path] for path in ("/etc/ld.so.cache", *DEVICES) if os.path.exists(path)]
    things += [["link", "/tmp", "/dev/shm"], ["proc", "", "/proc"], ["tmp", "", "/tmp"]]
    return things + [["hide", "", inside(path)] for path in _hidden(shown)]


def _hidden(shown: list[str]) -> list[str]:
    """Folders below a shown one that are private, or that would make scores differ between machines."""
    prefixes = {base_prefix(), "/usr", "/usr/local"}
    packages = {str(path) for prefix in prefixes for path in Path(prefix).glob("lib*/python3*/*-packages")}
    hidden: list[str] = []
    for path in sorted({os.path.realpath(path) for path in (*packages, *secret_folders())}):
        if os.path.isdir(path) and path not in shown and _within(path, *shown) and not _within(path, *hidden):
            hidden.append(path)
    return hidden


def privileged() -> bool:
    """Whether root's rights (CAP_SYS_ADMIN, other user ids) build the walls, or a user namespace does."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    capabilities = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return os.getuid() == 0 and bool(capabilities >> 21 & 1) and _last_user() > 2


def free_user() -> int:
    """A user id that owns nothing and that no other run has, since the kernel counts processes by it."""
    return min((1 << 30) + 2 * secrets.randbelow(1 << 28), _last_user() - 1)


def _last_user() -> int:
    rows = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    return max(int(first) + int(count) for first, _, count in map(str.split, rows)) - 1


def bubblewrap(tmp_bytes: int) -> list[str]:
    """The room in bubblewrap's words; the command to run in it follows after them."""
    words = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
    ]
    words += ["--as-pid-1", "--die-with-parent", "--hostname", "sandbox", "--clearenv"]
    if privileged():
        words += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        words += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
    for name, value in library_path(inside(base_prefix())).items():
        words += ["--setenv", name, value]
    for folder in ("/etc", "/dev"):  # left to itself, bubblewrap shuts them to all but its own user
        words += ["--perms", "0755", "--dir", folder]
    for kind, source, target in room():
        words += {
            "link": ["--symlink", source, target],
            "folder": ["--ro-bind", source, target],
            "file": ["--dev-bind" if target in DEVICES else "--ro-bind", source, target],
            "hide": ["--tmpfs", target, "--remount-ro", target],
            "proc": ["--proc", target],
            "tmp": ["--perms", "1777", "--size", str(tmp_bytes), "--tmpfs", target],
        }[kind]
    return [*words, "--remount-ro", "/", "--"]


@functools.cache
def system_call_filter() -> bytes:
    """A seccomp program, compiled by libseccomp: refuse what a program that computes and prints never needs.

    That is: sockets other than UNIX ones (a network namespace doesn't stop all of them, vsock for one),
    namespaces, mounts, tracing, keys, clocks, and kernel memory that no limit counts.

    Raises: RuntimeError without libseccomp.
    """
    try:
        seccomp = importlib.import_module("pyseccomp")  # it looks for libseccomp, and raises where there is none
    except (ImportError, RuntimeError) as error:
        raise RuntimeError(f"libseccomp, or its binding pyseccomp, is missing ({error})") from error
    denied = seccomp.ERRNO(errno.EPERM)
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    for name in DENIED_CALLS:
        number = NEW_CALLS.get(name) or seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
        if number != -1:
            rules.add_rule(denied, number)
    # Its flags lie in memory, where no filter looks; told that it doesn't exist, the C library takes clone.
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), NEW_CALLS["clone3"])
    for flag in NEW_NAMESPACE_FLAGS:
        rules.add_rule(denied, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    for name in ("socket", "socketpair"):
        rules.add_rule(denied, name, seccomp.Arg(0, seccomp.NE, socket.AF_UNIX))
    for request in (TIOCSTI, TIOCLINUX):
        rules.add_rule(denied, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, request))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
