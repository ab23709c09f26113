"""Damaged checkpoints of a real training: the one before is gone on from, to the same end, and the damage is named."""

import random
import shutil

import pytest
from faults_of_checkpoints import DAMAGES, flip_bit
from forking import train
from launching import assert_same_checkpoint

from diffusers_macdm.phantom import write_phantom


SCRIPT, CHECKPOINTS = "train_guidance_classifier", "guidance_classifier_checkpoints"
VALUES = {"max_train_steps": 6, "checkpointing_steps": 2, "use_ema": True, "validation_steps": 0}
COUNT = 48


def of_any_bit(rng):
    """Flip a bit of any file of the checkpoint."""

    def damage(checkpoint):
        path = rng.choice(sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != "progress.json"))
        flip_bit(path, rng.randrange(8 * path.stat().st_size))

    return damage


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_damaged_checkpoints(tmp_path):
    data, whole = tmp_path / "phantom", tmp_path / "whole"
    write_phantom(data, num_normal=6, num_lesion=4, size=32, seed=0)
    fork = train(SCRIPT, tmp_path / "log", train_data_dir=data, output_dir=whole, **VALUES)
    assert fork.wait() == 0, fork.said
    rng = random.Random(48)
    damages = dict(DAMAGES)
    for number in range(COUNT - len(damages)):
        damages[f"any bit, {number}"] = of_any_bit(rng)
    recovered = named = 0
    for number, (name, damage) in enumerate(damages.items()):
        run = shutil.copytree(whole, tmp_path / str(number))
        shutil.rmtree(run / "guidance_classifier")
        damaged = run / CHECKPOINTS / "checkpoint-6"
        damage(damaged)
        values = {"train_data_dir": data, "output_dir": run, "resume_from_checkpoint": "latest", **VALUES}
        fork = train(SCRIPT, tmp_path / f"log{number}", **values)
        assert fork.wait() == 0, (name, fork.said)
        assert f"Skipped what is damaged: {damaged} (" in fork.said and "Traceback" not in fork.said, (name, fork.said)
        assert_same_checkpoint(damaged, whole / CHECKPOINTS / "checkpoint-6", with_ema=True)
        recovered += 1
        shutil.rmtree(run)
    # Where none is whole, they are named, and nothing is started over.
    run = shutil.copytree(whole, tmp_path / "none")
    for checkpoint in (run / CHECKPOINTS).iterdir():
        of_any_bit(rng)(checkpoint)
    values = {"train_data_dir": data, "output_dir": run, "resume_from_checkpoint": "latest", **VALUES}
    fork = train(SCRIPT, tmp_path / "log_none", **values)
    assert fork.wait() == 1 and fork.said.count("is not what was written") == 3, fork.said
    named += 1
    print(
        f"\ndamaged checkpoints recovered: {recovered} of {len(damages)}, each exact; named where none is whole: {named} of 1"
    )
    assert len(damages) >= COUNT
