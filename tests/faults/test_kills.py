"""Trainings that are killed again and again, at any time and in the middle of what they do to files, and end as if not."""

import random
import shutil
from collections import Counter

import pytest
from forking import train
from killing import after, at_operation
from launching import assert_same_checkpoint, assert_same_weights, read_log, temporary_files

from diffusers_macdm.phantom import write_phantom
from diffusers_macdm.training.checkpoints import damage, list_checkpoints


# Many checkpoints, of which one is kept, a grid and a weak snapshot: files are made, renamed and deleted all the time.
BUSY = {
    "max_train_steps": 16,
    "checkpointing_steps": 2,
    "checkpoints_total_limit": 1,
    "dropout": 0.1,
    "use_ema": True,
    "learning_rate": 1e-3,
}
DENOISER = {"validation_steps": 4, "num_validation_samples": 1, "ddpm_num_inference_steps": 1, "weak_unet_step": 4}
SCRIPTS = {"train_macdm": BUSY | DENOISER, "train_guidance_classifier": BUSY}
WANTED = {"write": 9, "delete": 8, "rename": 8, "any time": 25}  # kills
RESULT = {"train_macdm": "unet", "train_guidance_classifier": "guidance_classifier"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(folder, num_normal=6, num_lesion=4, size=32, seed=0)
    return folder


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The trainings that nobody kills."""
    folders = {}
    for script, values in SCRIPTS.items():
        folders[script] = tmp_path_factory.mktemp("whole") / "model"
        fork = train(script, folders[script].with_suffix(".log"), train_data_dir=data, output_dir=folders[script], **values)
        assert fork.wait() == 0, fork.said
    return folders


def checkpoints_of(script, folder):
    return folder if script == "train_macdm" else folder / "guidance_classifier_checkpoints"


def killed_training(script, data, whole, folder, plans):
    """Kill a training as planned, until the plans are used up or it is finished; returns the kinds of the kills.

    What is finished is what it would have been without them, to the bit.
    """
    values = {"train_data_dir": data, "output_dir": folder, "resume_from_checkpoint": "latest", **SCRIPTS[script]}
    kills = []
    for kind, plan in plans:
        fork = train(script, folder.with_suffix(".log"), before=plan, **values)
        if fork.wait() == 0:
            break
        assert fork.code == -9, fork.said
        kills.append(kind)
        for checkpoint in list_checkpoints(checkpoints_of(script, folder)):
            assert damage(checkpoint) is None
    else:
        fork = train(script, folder.with_suffix(".log"), **values)
        assert fork.wait() == 0, fork.said
    name = {"train_macdm": "training_log.jsonl"}.get(script, "guidance_classifier_training_log.jsonl")
    assert [line["step"] for line in read_log(folder / name)] == list(range(1, 17))
    assert_same_weights(folder / RESULT[script], whole[script] / RESULT[script])
    if script == "train_macdm":
        assert_same_weights(folder / "weak_unet", whole[script] / "weak_unet")
    ours, theirs = (list_checkpoints(checkpoints_of(script, path)) for path in (folder, whole[script]))
    assert [path.name for path in ours] == [path.name for path in theirs] == ["checkpoint-16"]
    assert_same_checkpoint(ours[0], theirs[0], with_ema=True)
    assert temporary_files(folder) == [] and not (folder / ".lock").exists()
    return kills


@pytest.mark.parametrize("kind", ["write", "delete", "rename"])
def test_killed_in_the_middle_of_an_operation(data, whole, tmp_path, kind):
    """Late enough that there is something to lose: after the first checkpoint."""
    folder, script = tmp_path / "model", "train_guidance_classifier"
    number = {"write": 40, "delete": 12, "rename": 12}[kind]
    assert killed_training(script, data, whole, folder, [(kind, at_operation(folder, kind, number))]) == [kind]


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_fifty_kills(data, whole, tmp_path):
    rng, kills, trainings = random.Random(20261128), Counter(), 0

    def plan_of(kind, folder):
        if kind == "any time":
            return after(rng.uniform(0.2, 2.5))
        most = {"write": 120, "delete": 40, "rename": 40}[kind]
        return at_operation(folder, kind, rng.randrange(1, most), rng.choice([0.0, rng.uniform(0.0, 0.003)]))

    while missing := [kind for kind, number in WANTED.items() if kills[kind] < number]:
        script, folder = rng.choice(list(SCRIPTS)), tmp_path / str(trainings)
        kinds = [rng.choice(missing) for _ in range(8)]
        kills.update(killed_training(script, data, whole, folder, ((kind, plan_of(kind, folder)) for kind in kinds)))
        trainings += 1
        shutil.rmtree(folder)
    print(f"\nkills survived and exact: {kills.total()} ({dict(kills)}) in {trainings} trainings")
