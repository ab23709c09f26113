"""One, two and four processes with the same global batch train the same network, from the beginning or resumed."""

import shutil

import pytest
from forking import train_together
from launching import RESUMABLE
from safetensors.torch import load_file

from diffusers_macdm.phantom import write_phantom


CASES = 8  # of an update, by all processes
DENOISER = {"formulation": "paper"}  # the one that has the most terms
VALUES = {"train_macdm": {**RESUMABLE, **DENOISER}, "train_guidance_classifier": {**RESUMABLE, "validation_steps": 0}}
CHECKPOINTS = {"train_macdm": "", "train_guidance_classifier": "guidance_classifier_checkpoints"}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A set with films without a label, which the classifier's processes have unequally many of."""
    folder = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(folder, num_normal=6, num_lesion=4, size=32, seed=0)
    path = folder / "train" / "metadata.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[0] = lines[0].replace('"label": 0', '"label": null')
    path.write_text("".join(lines))
    return folder


def trained(script, data, folder, ranks, accumulation=2, **values):
    values = {**VALUES[script], "report_to": "none", "gradient_accumulation_steps": accumulation, **values}
    values["train_batch_size"] = CASES // ranks // accumulation
    forks = train_together(script, folder.with_suffix(".log"), ranks, train_data_dir=data, output_dir=folder, **values)
    codes = [fork.wait(300) for fork in forks]
    assert codes == [0] * ranks, "".join(fork.said for fork in forks)
    assert "other options" not in forks[0].said
    return folder


def difference(script, a, b, step):
    """Of the weights; an attention's key bias has no effect, and no gradient but that of rounding, which Adam scales up."""
    name = f"checkpoint-{step}/model/diffusion_pytorch_model.safetensors"
    a, b = (load_file(folder / CHECKPOINTS[script] / name) for folder in (a, b))
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a if not name.endswith("to_k.bias"))


def test_two_processes_train_what_one_does_and_go_on_from_its_checkpoint(data, tmp_path):
    script, values = "train_guidance_classifier", {"max_train_steps": 6, "checkpointing_steps": 2}
    one, two = (trained(script, data, tmp_path / str(ranks), ranks, **values) for ranks in (1, 2))
    assert difference(script, one, two, 6) < TOLERANCE
    resumed = shutil.copytree(one, tmp_path / "resumed")
    first = resumed / CHECKPOINTS[script] / "checkpoint-2"
    trained(script, data, resumed, 2, resume_from_checkpoint=first, **values)
    assert difference(script, one, resumed, 6) < TOLERANCE


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("script", VALUES)
def test_one_two_and_four_processes(script, data, tmp_path):
    one = trained(script, data, tmp_path / "1", 1)
    found = {}
    for ranks in (2, 4):
        found[f"{ranks} processes"] = difference(script, one, trained(script, data, tmp_path / str(ranks), ranks), 30)
    if script == "train_macdm":  # the classifier's loss is a mean over the labeled cases, of which some steps have fewer
        apart = trained(script, data, tmp_path / "apart", 1, accumulation=1)
        found["without accumulation"] = difference(script, one, apart, 30)
    for ranks in (2, 4):
        resumed = shutil.copytree(one, tmp_path / f"resumed-{ranks}")
        first = resumed / CHECKPOINTS[script] / "checkpoint-10"
        trained(script, data, resumed, ranks, resume_from_checkpoint=first)
        found[f"resumed by {ranks}"] = difference(script, one, resumed, 30)
    print(f"\n{script}, largest difference of a weight from one process: {found}")
    assert max(found.values()) < TOLERANCE
