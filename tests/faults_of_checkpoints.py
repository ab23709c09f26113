"""What a disk, a copy that broke off or a careless hand does to a checkpoint."""

import json
import shutil

from diffusers_macdm.training.checkpoints import PROGRESS
from diffusers_macdm.training.state import MODEL, OPTIMIZER, WEIGHTS


def flip_bit(path, number):
    content = bytearray(path.read_bytes())
    content[number // 8] ^= 1 << number % 8
    path.write_bytes(content)


def flip(name, share):
    def damage(checkpoint):
        path = checkpoint / name
        flip_bit(path, int(8 * path.stat().st_size * share))

    return damage


def cut(name, share):
    def damage(checkpoint):
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content[: int(len(content) * share)])

    return damage


def filled(name, byte):
    def damage(checkpoint):
        (checkpoint / name).write_bytes(byte * (checkpoint / name).stat().st_size)

    return damage


def gone(name):
    return lambda checkpoint: (checkpoint / name).unlink()


def progress(**values):
    def damage(checkpoint):
        path = checkpoint / PROGRESS
        content = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))

    return damage


def a_folder(name):
    def damage(checkpoint):
        (checkpoint / name).unlink()
        (checkpoint / name).mkdir()

    return damage


def emptied(checkpoint):
    for path in checkpoint.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def swapped(checkpoint):
    """The weights of another step: whole in themselves, and not what was written here."""
    shutil.copy(checkpoint / OPTIMIZER, checkpoint / MODEL / WEIGHTS)


WEIGHTS_FILE = f"{MODEL}/{WEIGHTS}"
DAMAGES = {
    **{f"bit of {name} at {share}": flip(name, share) for name in (WEIGHTS_FILE, OPTIMIZER) for share in (0.0, 0.5, 0.999)},
    **{f"{name} cut to {share}": cut(name, share) for name in (WEIGHTS_FILE, OPTIMIZER, PROGRESS) for share in (0, 0.5, 0.99)},
    **{f"{name} of {byte!r}": filled(name, byte) for name in (WEIGHTS_FILE, OPTIMIZER) for byte in (b"\0", b"\xff")},
    **{f"{name} gone": gone(name) for name in (WEIGHTS_FILE, OPTIMIZER, PROGRESS)},
    **{f"{name} a folder": a_folder(name) for name in (WEIGHTS_FILE, PROGRESS)},
    "no digests": progress(sha256=...),
    "no digest of the optimizer": progress(sha256={WEIGHTS_FILE: "0"}),
    "digests are a list": progress(sha256=[]),
    "another step": progress(step=7),
    "no step": progress(step=...),
    "a list for a record": lambda checkpoint: (checkpoint / PROGRESS).write_text("[1]"),
    "emptied": emptied,
    "weights of another step": swapped,
}
