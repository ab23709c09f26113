"""Weights and samples that are not finite are refused before they become films that look like a result."""

import pytest
import torch
from tiny_models import tiny_pipeline

from diffusers_macdm.generate.run import run
from diffusers_macdm.generate.settings import Settings
from diffusers_macdm.hub.loading import load_pipeline


def saved(folder, network, name, value):
    pipe = tiny_pipeline()
    if network == "weak_unet":
        pipe.register_modules(weak_unet=tiny_pipeline().unet)
    dict(getattr(pipe, network).named_parameters())[name].data.view(-1)[0] = value
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("network", "name"),
    [("unet", "conv_in.weight"), ("weak_unet", "conv_in.weight"), ("guidance_classifier", "conv_in.weight")],
)
def test_weights_are_refused_when_they_are_loaded(tmp_path, network, name, value):
    model = saved(tmp_path / "model", network, name, value)
    with pytest.raises(ValueError, match=rf"^{model}: the weights of its \w+ are not finite \({name}\)"):
        load_pipeline(model)
    with pytest.raises(ValueError, match="are not finite"):
        run(Settings(model=str(model), out=str(tmp_path / "out"), num_per_class=1), show_progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_samples_are_refused_before_they_are_images(output_type):
    pipe = tiny_pipeline(with_classifier=False)
    pipe.unet.conv_in.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="The samples of DDPMScheduler in 2 steps of torch.float32 are not finite"):
        pipe(class_labels=[0, 1], num_inference_steps=2, output_type=output_type)


def test_a_set_that_breaks_in_the_middle_has_no_broken_film(tmp_path):
    """Finite weights of which nothing finite comes: sampling overflows."""
    pipe = tiny_pipeline(with_classifier=False)
    for parameter in pipe.unet.parameters():
        parameter.data.mul_(1e30)
    pipe.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="are not finite"):
        settings = Settings(model=str(tmp_path / "model"), out=str(tmp_path / "out"), num_per_class=1, num_inference_steps=2)
        run(settings, show_progress=False)
    assert not list(tmp_path.glob("out/**/*.png"))
