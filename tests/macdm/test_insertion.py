"""A lesion painted into a given film: what training practises, what the network is fed, and what is kept."""

import pytest
import torch
from diffusers import DDPMScheduler
from known_pipelines import SIZE, each_scheduler, final_latents, generators, knowing_pipeline, real_case
from tiny_models import tiny_pipeline, tiny_unet

from diffusers_macdm.macdm.forward_process import ForwardProcess
from diffusers_macdm.macdm.loss import HybridLoss
from diffusers_macdm.macdm.training_losses import DenoisingLoss, insertion_regions


def region(batch_size=1):
    """Around the lesion of `known_pipelines.real_case`."""
    mask = torch.zeros(batch_size, 1, SIZE, SIZE)
    mask[..., 4:12, 6:14] = 1
    return mask


def film_to_insert_into(batch_size=1):
    case = real_case(batch_size)
    return {"image": case["image"], "anatomy_mask": case["anatomy_mask"], "mask_image": region(batch_size)}


# ------------------------------------------------------------------------------------------------------------ training


def joint_samples(count=200, size=32):
    generator = torch.Generator().manual_seed(0)
    anatomy = torch.zeros(count, size, size)
    anatomy[:, :, 10:22] = 1
    lesion = torch.zeros_like(anatomy)
    for i in range(count // 2):
        y = int(torch.randint(2, 27, (), generator=generator))
        x = int(torch.randint(10, 18, (), generator=generator))
        lesion[i, y : y + 2 + i % 3, x : x + 1 + i % 4] = 1
    radiograph = torch.rand(count, size, size, generator=generator)
    return torch.stack([radiograph, anatomy, lesion], dim=1) * 2 - 1


def test_regions_cover_the_lesion_and_meet_the_anatomy():
    torch.manual_seed(0)
    samples = joint_samples()
    regions = insertion_regions(samples)
    assert regions.dtype == torch.bool and regions.shape == (200, 32, 32)
    lesion, anatomy = samples[:, 2] > 0, samples[:, 1] > 0
    assert not (lesion & ~regions).any()
    assert (regions & anatomy).flatten(1).any(dim=1).all()
    sides = torch.stack([regions.any(dim=axis).sum(dim=1) for axis in (1, 2)])
    assert sides.min() >= 3 and sides.max() <= 17  # a fifth to a half of 32, cut off at the film's border
    assert 1.02 < (regions.any(dim=1).sum(dim=1) * regions.any(dim=2).sum(dim=1)).sum() / regions.sum() < 4 / torch.pi
    # a film without anatomy has a region too
    assert insertion_regions(torch.full((4, 3, 16, 16), -1.0)).flatten(1).any(dim=1).all()


def test_training_on_insertion_sees_the_film_and_learns_in_the_region_alone():
    """The network is fed the clean film outside of the region, and what it says there has no gradient."""
    fed = {}

    class Recorder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.output = torch.nn.Parameter(torch.zeros(200, 3, 32, 32))

        def forward(self, sample, timestep, class_labels, mask_timestep, augmentation_labels):
            fed.update(sample=sample, timestep=timestep, mask_timestep=mask_timestep)
            return type("Output", (), {"sample": self.output})

    samples = joint_samples()
    batch = {"joint_sample": samples, "class_label": torch.arange(200) % 2, "augmentation_labels": torch.zeros(200, 0)}
    loss = HybridLoss(prediction_type="sample", loss_space="v_prediction")
    process = ForwardProcess.from_scheduler(DDPMScheduler())
    config = tiny_unet(out_channels=3).config
    network = Recorder()
    torch.manual_seed(0)
    terms, timesteps = DenoisingLoss(loss, process, config, (0, 0, 0, 1), 0.1, 0.5)(network, batch)
    terms.total.backward()
    changed = fed["sample"] != samples
    learned = network.output.grad != 0
    assert not changed[:, 1].any() and not learned[:, 1].any()  # the anatomy is given
    for channel in (0, 2):
        assert torch.equal(changed[:, channel], learned[:, channel])
        assert changed[:, channel].float().mean() < 0.3
    given = ~changed[:, 2].flatten(1).any(dim=1)  # the lesion mask is given in half of the cases
    assert 0.3 < given.float().mean() < 0.7
    assert torch.equal(given, fed["mask_timestep"] == 0)
    assert torch.equal(fed["timestep"], timesteps[:, 0])
    assert torch.isnan(terms.simple[:, 1]).all()


# ------------------------------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("lesion_given", [False, True])
@each_scheduler
def test_outside_of_the_region_nothing_changes(name, lesion_given):
    """The network is fed the clean film outside of the region at every level, and the film comes back to the last bit."""
    pipe = knowing_pipeline(name)
    given = film_to_insert_into() | ({"lesion_mask": real_case()["lesion_mask"]} if lesion_given else {})
    _, output = final_latents(pipe, **given, class_labels=1, generator=generators(0)[0], refine_masks=False)
    inside = region() > 0
    clean = (
        torch.cat([given["image"], given["anatomy_mask"], given.get("lesion_mask", torch.zeros_like(inside))], dim=1) * 2 - 1
    )
    for fed, t in zip(pipe.unet.fed, pipe.scheduler.timesteps, strict=True):
        assert fed.timestep == t
        assert (t if fed.mask_timestep is None else fed.mask_timestep) == (0 if lesion_given else t)
        assert torch.equal(fed.sample[:, :1][~inside], clean[:, :1][~inside])
        assert torch.equal(fed.sample[:, 1], clean[:, 1])
        kept = torch.ones_like(inside) if lesion_given else ~inside
        assert torch.equal(fed.sample[:, 2:][kept], clean[:, 2:][kept])
    assert torch.equal(output.images[~inside], given["image"][~inside])
    assert torch.equal(output.anatomy_masks, given["anatomy_mask"])
    tolerance = 0.06 if name == "DEIS" else 2e-3
    known = (pipe.unet.clean + 1) / 2
    torch.testing.assert_close(output.images[inside], known[:, :1][inside], rtol=0, atol=tolerance)
    if lesion_given:
        assert torch.equal(output.lesion_masks, given["lesion_mask"])
    else:
        assert torch.equal(output.lesion_masks, known[:, 2:].round() * inside)


def test_pil_films_come_back_to_the_last_gray_level():
    import numpy as np
    import PIL.Image

    case = film_to_insert_into(1)
    images = {name: PIL.Image.fromarray(np.rint(x[0, 0].numpy() * 255).astype(np.uint8)) for name, x in case.items()}
    output = tiny_pipeline()(**images, class_labels=[0, 1], num_inference_steps=2, generator=generators(0, 1))
    outside = region()[0, 0].numpy() == 0
    films = [np.asarray(image) for image in output.images]
    assert len(films) == 2 and (films[0] != films[1]).any()  # one film, two labels
    for film in films:
        assert (film[outside] == np.asarray(images["image"])[outside]).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"strength": 0.5}, "mask_image and strength=0.5 do not go together"),
        ({"image": None}, "needs image and anatomy_mask; given: anatomy_mask"),
        ({"anatomy_mask": None}, "needs image and anatomy_mask; given: radiograph"),
        ({"mask_image": torch.zeros(1, 1, SIZE, SIZE)}, "mask_image is empty"),
        ({"mask_image": torch.ones(1, 1, 8, 8)}, r"mask_image has shape \(1, 1, 8, 8\)"),
        ({"mask_image": torch.ones(3, 1, SIZE, SIZE)}, "The numbers of samples do not agree"),
    ],
)
def test_what_cannot_be_inserted_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline()(**film_to_insert_into() | change, class_labels=[1, 1], num_inference_steps=2)


def test_a_model_without_a_timestep_for_the_masks_cannot_insert():
    pipe = tiny_pipeline()
    pipe.register_modules(unet=tiny_unet(mask_timestep=False))
    with pytest.raises(ValueError, match="mask_timestep=False"):
        pipe(**film_to_insert_into(), class_labels=1, num_inference_steps=2)
