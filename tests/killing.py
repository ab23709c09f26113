"""Kills itself (SIGKILL) in the middle of what it does to files below a folder, or after some time."""

import os
import signal
import sys
import threading
import time


# Operation on a file or folder -> the audit events of Python that announce it.
OPERATIONS = {
    "write": ("open", "os.mkdir"),
    "delete": ("os.remove", "os.rmdir", "shutil.rmtree"),
    "rename": ("os.rename",),
}


def below(folder, argument) -> bool:
    return isinstance(argument, (str, os.PathLike)) and os.fspath(argument).startswith(str(folder))


def operation(folder, event, arguments):
    """Which of `OPERATIONS` an audit event announces below the folder, or None."""
    if event == "open":
        _, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(flags, int) else mode and mode[0] in "wax+"
        if not writes:
            return None
    name = next((name for name, events in OPERATIONS.items() if event in events), None)
    return name if name and any(below(folder, argument) for argument in arguments[:2]) else None


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def at_operation(folder, kind: str, number: int, delay: float = 0.0):
    """Return what kills this process at the `number`-th operation of a kind, `delay` seconds into it."""

    def install():
        seen = 0

        def hook(event, arguments):
            nonlocal seen
            if event in ("open", *OPERATIONS["delete"], *OPERATIONS["rename"], "os.mkdir"):
                if operation(folder, event, arguments) == kind:
                    seen += 1
                    if seen == number:
                        if delay:
                            threading.Thread(target=lambda: (time.sleep(delay), kill_self()), daemon=True).start()
                        else:
                            kill_self()

        sys.addaudithook(hook)

    return install


def after(seconds: float):
    """Return what kills this process after some time, whatever it does then."""

    def install():
        threading.Thread(target=lambda: (time.sleep(seconds), kill_self()), daemon=True).start()

    return install
