"""What `--formulation` stands for."""

import dataclasses

import pytest

from diffusers_macdm.macdm.forward_process import ForwardProcess
from diffusers_macdm.training.formulations import hybrid_loss
from diffusers_macdm.training.loop import parse_settings
from diffusers_macdm.training.networks import build_unet, timestep_probabilities, training_scheduler
from diffusers_macdm.training.settings import DenoiserSettings


WORDS = (["--block_out_channels", "8", "16"], ["--formulation=paper", "--block_out_channels", "8", "16"])


def test_the_formulations():
    """The default predicts the clean sample, DPM-Solver++ samples; one option brings the paper's; what is given goes first."""
    clean, paper = (parse_settings(DenoiserSettings, [*words, "--train_data_dir", "x"]) for words in WORDS)
    assert (clean.prediction_type, hybrid_loss(clean).loss_space, clean.learned_variance) == ("sample", "v_prediction", False)
    assert (paper.prediction_type, hybrid_loss(paper).loss_space, paper.learned_variance) == ("epsilon", None, True)
    assert (clean.noise_levels, paper.noise_levels) == ("lognormal", "uniform")
    for settings, scheduler, channels in ((clean, "DPMSolverMultistepScheduler", 3), (paper, "DDPMScheduler", 6)):
        settings.check()
        made = training_scheduler(settings, settings.prediction_type, settings.learned_variance)
        assert type(made).__name__ == scheduler and made.config.prediction_type == settings.prediction_type
        assert build_unet(settings, 2, 0).config.out_channels == channels
        assert hybrid_loss(settings).prediction_type == settings.prediction_type
    assert [build_unet(settings, 2, 0).config.film_noise for settings in (clean, paper)] == [0.025, 0]
    assert hybrid_loss(clean).sigma_floor == 0.3 and hybrid_loss(clean).channel_weights == (1, 1, 3)
    process = ForwardProcess.from_scheduler(made)
    assert timestep_probabilities(paper, process) is None
    assert timestep_probabilities(clean, process).argmax() < 500
    given = parse_settings(DenoiserSettings, ["--formulation", "paper", "--prediction_type", "sample", "--train_data_dir", "x"])
    assert given.prediction_type == "sample" and given.learned_variance


@pytest.mark.parametrize(
    "other",
    [{"prediction_type": "epsilon"}, {"ddpm_num_steps": 500}, {"ddpm_beta_schedule": "squaredcos_cap_v2"}],
    ids=lambda other: next(iter(other)),
)
def test_a_network_with_film_noise_is_held_to_its_noise(tmp_path, other):
    """It knows how noisy its input is by its own schedule; another one would be silently wrong."""
    clean = parse_settings(DenoiserSettings, [*WORDS[0], "--train_data_dir", "x"])
    build_unet(clean, 2, 0).save_pretrained(tmp_path)
    given = dataclasses.replace(clean, pretrained_unet=str(tmp_path))
    assert build_unet(given, 2, 0).config.film_noise == 0.025
    option, value = next(iter(other.items()))
    with pytest.raises(ValueError, match=f"^--{option} {value} does not fit the denoiser given, which models film noise"):
        build_unet(dataclasses.replace(given, **other), 2, 0)
