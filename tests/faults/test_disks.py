"""Full disks: one sentence, the last checkpoint is kept, and with more room the training goes on to the same end."""

import ctypes
import os
import shutil

import pytest
from forking import Fork
from launching import TINY, assert_same_weights, options, reset_accelerate

from diffusers_macdm.phantom import write_phantom
from diffusers_macdm.training import classifier
from diffusers_macdm.training.checkpoints import damage, list_checkpoints
from diffusers_macdm.training.loop import run_script


VALUES = {
    **TINY,
    "max_train_steps": 6,
    "checkpointing_steps": 2,
    "use_ema": True,
    "validation_steps": 0,
    "report_to": "tensorboard",
}
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
KIBIBYTES = (0, 60, 150, 300, 450, 600, 750, 900, 1050, 1200)


def own_mounts():
    """Let this process have mounts that nobody else sees; False where it may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) == 0:
        return libc.mount(b"none", b"/", None, 0x44000, None) == 0  # MS_REC | MS_PRIVATE
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS | CLONE_NEWUSER):
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return True


def mount(folder, kibibytes, flags=0):
    libc = ctypes.CDLL(None, use_errno=True)
    size = f"size={max(kibibytes, 4)}k".encode()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, size):
        raise OSError(ctypes.get_errno(), "mount")


def may_mount(tmp_path):
    def probe():
        if not own_mounts():
            raise SystemExit(3)
        (tmp_path / "probe").mkdir()
        mount(tmp_path / "probe", 16)

    return Fork(probe, tmp_path / "probe.log").wait() == 0


def train_here(data, folder, **values):
    """The classifier's script; returns the sentence that it ended with, or None."""
    import logging
    import sys

    logging.root.handlers.clear()
    os.environ["ACCELERATE_USE_CPU"] = "true"
    sys.argv = ["train", *options(train_data_dir=data, output_dir=folder, **{**VALUES, **values})]
    reset_accelerate()
    try:
        run_script(classifier.main)
    except SystemExit as error:
        return str(error.code)
    return None


def fill_and_free(data, whole, folder, kibibytes):
    """In a process of its own: train on a disk of this size, and again on a larger one."""
    if not own_mounts():
        raise SystemExit("no mounts")
    mount(folder, kibibytes)
    out = folder / "model"
    said = train_here(data, out)
    if said is not None:
        kept = list_checkpoints(out / "guidance_classifier_checkpoints")
        expected = f"{kept[-1]} is kept: go on from it by --resume" if kept else "no checkpoint was written"
        assert said.startswith("error: The disk is full") and expected in said and "\n" not in said, said
        assert all(damage(path) is None for path in kept)
        assert not (out / "guidance_classifier").exists()
        mount(folder, 100_000, flags=32)  # MS_REMOUNT
        assert train_here(data, out, resume_from_checkpoint="latest") is None
    assert_same_weights(out / "guidance_classifier", whole / "guidance_classifier")
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]
    print("FULL" if said else "ENOUGH", said, flush=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(folder, num_normal=6, num_lesion=4, size=32, seed=0)
    return folder


def tried(data, tmp_path, sizes):
    if not may_mount(tmp_path):
        pytest.skip("no file system of one's own can be mounted here")
    whole = tmp_path / "whole"
    fork = Fork(lambda: train_here(data, whole), tmp_path / "whole.log")
    assert fork.wait() == 0 and (whole / "guidance_classifier").is_dir(), fork.said
    results = []
    for size in sizes:
        folder = tmp_path / f"disk-{size}"
        folder.mkdir()
        fork = Fork(lambda folder=folder, size=size: fill_and_free(data, whole, folder, size), tmp_path / f"{size}.log")
        assert fork.wait() == 0, fork.said
        assert "Traceback" not in fork.said, fork.said
        results.append("FULL" in fork.said)
        shutil.rmtree(folder)
    return results


def test_a_full_disk(data, tmp_path):
    assert tried(data, tmp_path, (700,)) == [True]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_full_disks(data, tmp_path):
    results = tried(data, tmp_path, KIBIBYTES)
    print(f"\nfull disks: {sum(results)} of {len(results)} sizes were too small; each one sentence, and exact with more room")
    assert sum(results) >= 6
