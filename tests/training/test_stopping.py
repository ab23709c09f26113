"""SIGTERM, SIGINT and the end of the launcher: the step is finished and kept, and nobody is left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
from forking import train, train_together
from launching import RESUMABLE, assert_same_checkpoint, assert_same_weights, command, environment, last_step

from diffusers_macdm.training.checkpoints import damage, list_checkpoints
from diffusers_macdm.training.stopping import HELD_BY_COMMAND, Stopping


LONG = {**RESUMABLE, "report_to": "none", "checkpointing_steps": 1000}  # no checkpoint but that of the signal and the last
LOG = "guidance_classifier_training_log.jsonl"
SCRIPT, CHECKPOINTS = "train_guidance_classifier", "guidance_classifier_checkpoints"


def wait_for_step(folder, step, poll, seconds=120):
    end = time.monotonic() + seconds
    while last_step(folder / LOG) < step:
        assert poll() is None and time.monotonic() < end, "it has not come so far"
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_step_is_finished_and_kept(phantom, tmp_path, number):
    values = {"train_data_dir": phantom, **LONG, "dataloader_num_workers": 1 if number == signal.SIGINT else 0}
    folder = tmp_path / "stopped"
    fork = train(SCRIPT, tmp_path / "log", output_dir=folder, **values)
    wait_for_step(folder, 3, fork.poll)
    fork.kill(number)
    assert fork.wait() == 128 + number, fork.said
    (kept,) = list_checkpoints(folder / CHECKPOINTS)
    step = int(kept.name.split("-")[1])
    assert step >= 3 and damage(kept) is None
    sentence = (
        f"{number.name}: stopped after update {step} of 30, {kept} is written; go on with --resume_from_checkpoint latest."
    )
    assert fork.said.count(sentence) == 1 and "Traceback" not in fork.said
    assert not (folder / ".lock").exists()

    resumed = train(SCRIPT, tmp_path / "log", output_dir=folder, resume_from_checkpoint="latest", **values)
    whole = train(SCRIPT, tmp_path / "log", output_dir=tmp_path / "whole", **values)
    assert resumed.wait() == whole.wait() == 0, resumed.said
    last = f"{CHECKPOINTS}/checkpoint-30"
    assert_same_checkpoint(folder / last, tmp_path / "whole" / last, with_ema=True)


def test_one_of_two_processes_is_asked_and_both_stop_at_the_same_step(phantom, tmp_path):
    folder = tmp_path / "model"
    values = {"train_data_dir": phantom, "output_dir": folder, **LONG, "max_train_steps": 3000}
    forks = train_together(SCRIPT, tmp_path / "log", 2, **values)
    wait_for_step(folder, 3, forks[0].poll)
    forks[1].kill(signal.SIGTERM)
    assert [fork.wait() for fork in forks] == [143, 143], forks[0].said + forks[1].said
    assert len(list_checkpoints(folder / CHECKPOINTS)) == 1
    assert "SIGTERM: stopped after update" in forks[0].said and "SIGTERM" not in forks[1].said


def test_a_launcher_that_ends_leaves_no_training_behind(phantom, tmp_path):
    """accelerate's launcher dies of the signal and tells nobody."""
    folder = tmp_path / "model"
    values = {"train_data_dir": phantom, "output_dir": folder, **LONG, "max_train_steps": 100000}
    words = command(SCRIPT, "--cpu", "--num_processes", "1", **values)
    launcher = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_step(folder, 3, launcher.poll)
    launcher.send_signal(signal.SIGTERM)
    said = launcher.communicate(timeout=60)[1]  # until the training has closed the pipe, too
    assert launcher.returncode == -signal.SIGTERM
    assert "SIGTERM: stopped after update" in said and "Traceback" not in said
    assert len(list_checkpoints(folder / CHECKPOINTS)) == 1 and not (folder / ".lock").exists()


def test_before_the_first_step_it_ends_at_once(phantom, tmp_path):
    values = {"train_data_dir": phantom, "output_dir": tmp_path / "model", **LONG}

    def before():
        import diffusers_macdm.training.trainer as trainer

        build = trainer.Trainer.__init__

        def interrupted(self, *arguments, **options):
            os.kill(os.getpid(), signal.SIGTERM)
            build(self, *arguments, **options)

        trainer.Trainer.__init__ = interrupted

    fork = train(SCRIPT, tmp_path / "log", before=before, **values)
    assert fork.wait() == 143 and "SIGTERM: ended at once; no update was going on." in fork.said
    assert not (tmp_path / "model").exists()


def test_signals_are_remembered_and_the_second_ends_at_once(monkeypatch, request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with Stopping() as stopping:
        with stopping.deferred():
            assert stopping.requested() == 0
            for _ in range(2):  # a terminal's reaches everybody, and the launcher hands it on
                os.kill(os.getpid(), signal.SIGINT)
                assert stopping.requested() == signal.SIGINT
            stopping._since -= 10
            with pytest.raises(SystemExit) as caught:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
        assert caught.value.code == 143
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_launcher_its_end_is_none(monkeypatch):
    """A training that a shell has started may outlive that shell."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    parents = iter(range(2, 10))
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    stopping = Stopping()
    assert stopping.requested() == stopping.requested() == 0
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert Stopping().requested() == signal.SIGTERM


def test_the_end_of_the_command_that_holds_the_input(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    reading, writing = os.pipe()
    with os.fdopen(reading) as held:
        monkeypatch.setattr(sys, "__stdin__", held)
        monkeypatch.setenv(HELD_BY_COMMAND, "1")
        stopping = Stopping()
        monkeypatch.delenv(HELD_BY_COMMAND)
        of_a_shell = Stopping()
        assert stopping.requested() == of_a_shell.requested() == 0
        os.close(writing)  # as the end of a process does, however it ends
        assert stopping.requested() == signal.SIGTERM and of_a_shell.requested() == 0


@pytest.mark.faults
def test_launchers_of_two_processes(phantom, tmp_path):
    counts = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        folder = tmp_path / number.name
        values = {"train_data_dir": phantom, "output_dir": folder, **LONG, "max_train_steps": 100000}
        words = command(SCRIPT, "--multi_gpu", "--num_processes", "2", "--main_process_port", "0", **values)
        launcher = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_for_step(folder, 3, launcher.poll)
        launcher.send_signal(number)
        said = launcher.communicate(timeout=90)[1]
        assert launcher.returncode != 0 and f"{number.name}: stopped after update" in said
        assert len(list_checkpoints(folder / CHECKPOINTS)) == 1
        counts += 1
    print(f"\nlaunchers of two processes that were sent a signal: {counts}, each with its checkpoint and no orphan")


def test_the_result_of_a_stopped_run_is_that_of_one_that_was_not(phantom, tmp_path):
    """Stopped at the last step as well: the pipeline is written by the run that goes on."""
    values = {"train_data_dir": phantom, **LONG, "max_train_steps": 4}
    forks = []
    for name in ("stopped", "whole"):

        def before(stopped=name == "stopped"):
            import diffusers_macdm.training.trainer as trainer

            step = trainer.Trainer.micro_step

            def at_the_last(self, number, batch, stop=0):
                return step(self, number, batch, signal.SIGTERM if stopped and number == 7 else stop)

            trainer.Trainer.micro_step = at_the_last

        forks.append(train(SCRIPT, tmp_path / "log", before=before, output_dir=tmp_path / name, **values))
    assert [fork.wait() for fork in forks] == [143, 0], forks[0].said
    assert not (tmp_path / "stopped" / "guidance_classifier").exists()
    fork = train(SCRIPT, tmp_path / "log", output_dir=tmp_path / "stopped", resume_from_checkpoint="latest", **values)
    assert fork.wait() == 0, fork.said
    assert_same_weights(tmp_path / "stopped" / "guidance_classifier", tmp_path / "whole" / "guidance_classifier")
