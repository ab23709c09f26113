"""Runs that several tests look at: each training uninterrupted, and killed and resumed; the denoiser by two processes.

Those that are killed are launched, to be resumed by a launch; the uninterrupted ones, which they have to equal, run in this
process: that saves the imports, and whoever calls `main` gets the same bits.
"""

import pytest
from launching import RESUMABLE, launch, launch_and_kill, run_here

from diffusers_macdm.phantom import write_phantom


# The denoiser's further options in these runs: a grid of samples, a weak_unet, and the formulation that has the most terms.
DENOISER = {
    "formulation": "paper",
    "validation_steps": 15,
    "num_validation_samples": 4,
    "ddpm_num_inference_steps": 2,
    "weak_unet_step": 4,
}


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """A data set of 6 normal and 4 lesion cases."""
    folder = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(folder, num_normal=6, num_lesion=4, size=32, seed=0)
    return folder


def finished(result):
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="session")
def classifier_run(phantom, tmp_path_factory):
    """The classifier, uninterrupted, in a new folder."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "model"
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_here(monkeypatch, "train_guidance_classifier", train_data_dir=phantom, output_dir=folder, **RESUMABLE)
    return folder


@pytest.fixture(scope="session")
def denoiser_run(phantom, classifier_run):
    """The denoiser, uninterrupted, in the folder of the classifier."""
    values = {**RESUMABLE, **DENOISER, "checkpoints_total_limit": 2}
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_here(monkeypatch, "train_macdm", train_data_dir=phantom, output_dir=classifier_run, **values)
    return classifier_run


@pytest.fixture(scope="session")
def resumed_denoiser_run(phantom, tmp_path_factory):
    """The denoiser, killed and resumed, in a new folder."""
    folder = tmp_path_factory.mktemp("resumed") / "model"
    values = {"train_data_dir": phantom, "output_dir": folder, **RESUMABLE, **DENOISER}
    killed_at = launch_and_kill("train_macdm", log=folder / "training_log.jsonl", checkpoints=folder, **values)
    assert killed_at > 10 and not (folder / "model_index.json").exists()
    _plant_torn_checkpoint(folder)
    result = finished(launch("train_macdm", resume_from_checkpoint="latest", **values))
    assert "Resumed MaCDMUNet2DModel from" in result.stderr and "other options" not in result.stderr
    return folder


@pytest.fixture(scope="session")
def resumed_classifier_run(phantom, resumed_denoiser_run):
    """The classifier, killed and resumed, in the folder of the denoiser."""
    folder = resumed_denoiser_run
    values = {"train_data_dir": phantom, "output_dir": folder, **RESUMABLE}
    checkpoints = folder / "guidance_classifier_checkpoints"
    log = folder / "guidance_classifier_training_log.jsonl"
    killed_at = launch_and_kill("train_guidance_classifier", log=log, checkpoints=checkpoints, **values)
    assert killed_at > 10 and not (folder / "guidance_classifier").exists()
    _plant_torn_checkpoint(checkpoints)
    result = finished(launch("train_guidance_classifier", resume_from_checkpoint="latest", **values))
    assert "Resumed GuidanceClassifier from" in result.stderr
    return folder


@pytest.fixture(scope="session")
def two_process_run(phantom, tmp_path_factory):
    """The denoiser, trained by two processes and audited for copies; its folder and the launch."""
    folder = tmp_path_factory.mktemp("two") / "model"
    audit = {"embedding_steps": 2, "audit_samples": 2, "audit_cases": 4, "ddpm_num_inference_steps": 2}
    result = launch(
        "train_macdm",
        *("--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
        **{**audit, "audit_steps": 2, "max_copy_rate": 1},
        **{"max_train_steps": 3, "gradient_accumulation_steps": 2, "checkpointing_steps": 2, "report_to": "tensorboard"},
        train_data_dir=phantom,
        output_dir=folder,
    )
    return folder, finished(result)


def _plant_torn_checkpoint(checkpoints):
    """What a kill in the middle of writing leaves; a later number than that of any complete checkpoint."""
    torn = checkpoints / "checkpoint-29.tmp" / "model"
    torn.mkdir(parents=True)
    (torn / "diffusion_pytorch_model.safetensors").write_bytes(b"torn")
