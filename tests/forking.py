"""Trainings in forked processes: they start in no time, for the libraries are imported already, and can be killed."""

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
from launching import MODULES, TINY, TINY_OF, options, reset_accelerate

from diffusers_macdm.training.loop import run_script


class Fork:
    """A process that runs a function; `code` is its exit status, or minus the signal that ended it, once it has ended."""

    def __init__(self, function, log: Path):
        self.log, self.code = log, None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(function)

    def _run(self, function):
        torch.set_num_threads(1)  # the threads that the parent computes with are not there; waiting for them hangs
        with contextlib.suppress(BaseException):
            descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr, sys.__stderr__ = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2, 2))
        code = 1
        try:
            function()
            code = 0
        except SystemExit as error:
            code = error.code
            if not isinstance(code, int | None):
                print(code, file=sys.stderr)
                code = 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code or 0)

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def poll(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def kill(self, number=signal.SIGKILL):
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, seconds=120) -> int:
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"it hangs:\n{self.said}")
            time.sleep(0.005)
        return self.code


def train(script: str, log: Path, before=lambda: None, rank: int = 0, ranks: int = 1, port: int = 0, **values) -> Fork:
    """Start a tiny training; `before` is called first in its process."""

    def run():
        import logging

        logging.root.handlers.clear()
        os.environ["ACCELERATE_USE_CPU"] = "true"
        if ranks > 1:
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": ranks}
            address |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks}
            os.environ.update({name: str(value) for name, value in address.items()})
        sys.argv = [script, *options(**{**TINY, **TINY_OF[script], **values})]
        reset_accelerate()
        before()
        run_script(MODULES[script].main)

    return Fork(run, log)


def train_together(script: str, log: Path, ranks: int, **values) -> list[Fork]:
    """Start a tiny training of several processes, as `accelerate launch` does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    forks = [
        train(script, log.with_name(f"{log.name}.{rank}"), rank=rank, ranks=ranks, port=port, **values) for rank in range(ranks)
    ]
    return forks
