"""The first program inside a sandbox: it gives up everything it does not need and becomes the given command.

Run as a script by ``sandbox.py`` with one JSON argument; standard library only, Linux only for the namespaces. After
``isolate`` this process and all its children see: no network but a loopback that is down, a root folder of their own
in memory (system libraries and Python read-only, one writable folder of a fixed size), no other process, no
environment, and they hold no privilege.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, Final

_NEW_FS, _NEW_UTS, _NEW_IPC, _NEW_USER, _NEW_PID, _NEW_NET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
_READ_ONLY, _NO_SUID, _NO_DEV, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH: Final = 2
_DEATH_SIGNAL, _DUMPABLE, _NO_NEW_PRIVILEGES = 1, 4, 38
_SYSTEM: Final = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")
_DEVICES: Final = ("/dev/null", "/dev/urandom")
_ROOT: Final = "/tmp"
"""Any folder: the new root is mounted over it, in this mount namespace only."""
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    _call(
        "mount", source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), data.encode()
    )


def isolate(limits: dict[str, Any]) -> None:
    """Enter new namespaces; returns in an ordinary process there, without privileges.

    Three processes: this one waits; number 1 of the new process namespace keeps watch, runs nothing foreign and takes
    all the others with it when it ends, and it ends with this one; its child returns. Raises OSError where the kernel
    refuses.
    """
    user, group = os.getuid(), os.getgid()
    flags = _NEW_FS | _NEW_UTS | _NEW_IPC | _NEW_PID | _NEW_NET
    _call("unshare", flags if user == 0 else flags | _NEW_USER)
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _fork_and_wait()
    _die_with_parent()
    _new_root(limits)
    _call("prctl", _DUMPABLE, 0, 0, 0, 0)  # the program must not get hold of the watcher
    _fork_and_wait()
    if user == 0:  # a number of its own for each sandbox, so that limits on processes are counted apart
        nobody = 20_000 + int(limits["number"]) % 40_000
        os.chown("/work", nobody, nobody)
        os.setgroups([])
        os.setresgid(nobody, nobody, nobody)
        os.setresuid(nobody, nobody, nobody)
    os.setsid()


def _fork_and_wait() -> None:
    """Go on in a child; the parent waits for it, buries what else has died, and ends as the child does."""
    child = os.fork()
    while child:
        ended, status = os.wait()
        if ended == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _die_with_parent() -> None:
    _call("prctl", _DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def _new_root(limits: dict[str, Any]) -> None:
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    shown = [*_SYSTEM, *_DEVICES, *limits["show"]]
    links = {path: str(Path(path).readlink()) for path in shown if Path(path).is_symlink()}
    named = {path: path for path in shown if path not in links and Path(path).exists()} | limits["folders"]
    sources = [os.open(path, os.O_PATH) for path in named.values()]  # found before the new root is laid over a folder
    kinds = [Path(path).is_dir() for path in named.values()]
    _mount("tmpfs", _ROOT, "tmpfs", _NO_SUID | _NO_DEV, "size=1m,nr_inodes=2000,mode=755")
    for source, path, folder in zip(sources, named, kinds, strict=True):
        target = Path(_ROOT + path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir(exist_ok=True) if folder else target.touch()
        _mount(f"/proc/self/fd/{source}", str(target), None, _BIND)
        flags = _REMOUNT | _BIND | _NO_SUID | (0 if path in _DEVICES else _READ_ONLY | _NO_DEV)
        _mount("none", str(target), None, flags)
        os.close(source)
    for path, goal in links.items():
        Path(_ROOT + path).symlink_to(goal)
    Path(_ROOT + "/work").mkdir()
    size = int(limits["files_mb"])
    _mount("tmpfs", _ROOT + "/work", "tmpfs", _NO_SUID | _NO_DEV, f"size={size}m,nr_inodes=1000,mode=700,{_owner()}")
    _mount("none", _ROOT, None, _REMOUNT | _BIND | _READ_ONLY | _NO_SUID)
    os.chdir(_ROOT)
    _pivot()
    os.chdir("/work")


def _owner() -> str:
    return f"uid={os.getuid()},gid={os.getgid()}"


def _pivot() -> None:
    """Make the current folder the root and let go of the old one (``pivot_root(".", ".")``, then unmount)."""
    number = {"x86_64": 155, "aarch64": 41}.get(os.uname().machine)
    if number is None:
        raise OSError(0, f"no sandbox for {os.uname().machine}")
    if _libc.syscall(ctypes.c_long(number), b".", b".") != 0:
        raise OSError(ctypes.get_errno(), "pivot_root: " + os.strerror(ctypes.get_errno()))
    _call("umount2", b".", _DETACH)
    os.chdir("/")


def restrict(limits: dict[str, Any]) -> None:
    """Limits of the kernel on this process and its children, and no way to gain a privilege."""
    memory, seconds = int(limits["memory_mb"]) << 20, int(limits["cpu_s"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limits["files_mb"]) << 20,) * 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits["isolation"] == "strict":
        resource.setrlimit(resource.RLIMIT_NPROC, (int(limits["processes"]),) * 2)
    if sys.platform == "linux":
        _call("prctl", _NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def main() -> None:
    """``sandbox_init.py LIMITS COMMAND...``; exit code 120 and a line on standard error where isolation fails."""
    limits: dict[str, Any] = json.loads(sys.argv[1])
    try:
        if sys.platform == "linux":
            _die_with_parent()
        if limits["isolation"] == "strict":
            isolate(limits)
        restrict(limits)
    except (OSError, AttributeError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(120)
    os.execve(sys.argv[2], sys.argv[2:], {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})


if __name__ == "__main__":
    main()
