"""An output folder is written by one process at a time."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the output folder for this process alone until the end, making it where it is not there.

    The lock is the operating system's and ends with the process, however that ends: a file that a killed one has left holds
    nobody up. Held twice in one process it is refused as well. What was made for the lock alone goes at the end. Windows has
    no such lock, nor do some network file systems, which is said in a warning.

    Raises:
        FileExistsError: when another process holds the folder.
        OSError: when the folder cannot be made or written into.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = _lock(folder)
    try:
        yield
    finally:
        if lock is not None:
            (folder / LOCK_FILE).unlink(missing_ok=True)  # while it is still held
            _locks.discard(lock)
            os.close(lock)
        with suppress(OSError):  # not empty, or gone
            for path in made:
                path.rmdir()


_locks: set[int] = set()  # descriptors


def _lock(folder: Path) -> int | None:
    """Take the lock of a folder; its file's descriptor, or None where there are no locks."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} exists and is not a folder.")
    if folder.is_symlink() and not folder.exists():
        raise FileExistsError(f"{folder} is a link to nothing.")
    path = folder / LOCK_FILE
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # whoever held the folder has just removed it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 100).decode(errors="replace").strip()
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                warnings.warn(f"{folder} lies where files cannot be locked ({error}): start nothing else there.", stacklevel=4)
                return None
            raise FileExistsError(
                f"{folder} is being written by another process{f' ({holder})' if holder else ''}: wait for its end, or give "
                "another folder."
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):  # not one that its holder has removed meanwhile
                _locks.add(descriptor)
                with suppress(OSError):  # a full disk: the name is for the sentence of others alone
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
                return descriptor
        os.close(descriptor)


def _close_locks() -> None:
    """In a forked process, a loader of data say: it would hold the folder beyond the end of the one that took it."""
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locks)
