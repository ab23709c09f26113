"""Load a saved pipeline folder where diffusers-macdm cannot be imported, sample, and save what came out.

    python sample_without_package.py FOLDER CUSTOM_PIPELINE OUT.npz [DIRECTORY ...]

The directories are added to sys.path: for an interpreter that was started without any site-packages. tests/hub/test_sources.py
runs this, and calls `samples` on the package's own pipeline.
"""

import importlib.util
import sys


def samples(pipe):
    """One array for each of the uses of the pipeline: `[2, 3, 16, 16]`, radiograph and masks before they are refined."""
    import numpy as np
    import PIL.Image
    import torch
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler

    pipe.set_progress_bar_config(disable=True)
    given = torch.Generator().manual_seed(7)
    image = torch.rand(2, 1, 16, 16, generator=given)
    anatomy, lesion = (torch.rand(2, 1, 16, 16, generator=given) > share for share in (0.3, 0.8))
    film = PIL.Image.fromarray(np.arange(24 * 20, dtype=np.uint16).reshape(24, 20) * 100)
    masks = {"anatomy_mask": anatomy, "lesion_mask": lesion}
    guided = {"guidance_scale": 2.0, "guidance_interval": (0.1, 0.9)}
    everything = {**guided, "classifier_free_guidance_scale": 1.5, "autoguidance_scale": 1.3}
    calls = {
        "pairs": (None, {}),
        "guided": (None, guided),
        "guided, DDIM": (DDIMScheduler, guided),
        "guided, DPM-Solver++": (DPMSolverMultistepScheduler, guided),
        "guided, Euler": (EulerDiscreteScheduler, everything),
        "guided, Heun": (HeunDiscreteScheduler, guided),
        "every guidance": (None, everything),
        "masks given": (None, {**masks, **guided}),
        "image given": (None, {"image": image}),
        "one mask and a film of another size": (None, {"image": film, "anatomy_mask": anatomy}),
        "strength": (None, {"image": image, **masks, "strength": 0.6}),
        "refined": (None, {"refine_masks": True}),
    }
    trained = pipe.scheduler
    found = {}
    for name, (scheduler, arguments) in calls.items():
        pipe.scheduler = trained if scheduler is None else scheduler.from_config(trained.config)
        output = pipe(
            class_labels=[0, 1],
            num_inference_steps=5,
            generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
            output_type="np",
            **{"refine_masks": False, **arguments},
        )
        fields = (output.images, output.anatomy_masks, output.lesion_masks)
        found[name] = np.concatenate([np.moveaxis(field, -1, 1) for field in fields], axis=1)
    pipe.scheduler = trained
    return found


def main():
    folder, custom_pipeline, out, *directories = sys.argv[1:]
    sys.path += directories
    assert importlib.util.find_spec("diffusers_macdm") is None, "diffusers_macdm can be imported here"

    import numpy as np
    from diffusers import DiffusionPipeline

    try:
        DiffusionPipeline.from_pretrained(folder, custom_pipeline=custom_pipeline)
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
    else:
        raise AssertionError("remote code ran without trust_remote_code")
    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=custom_pipeline, trust_remote_code=True)
    np.savez(out, **samples(pipe))
    print(*(type(part).__module__ for part in (pipe, pipe.unet, pipe.weak_unet, pipe.guidance_classifier)))


if __name__ == "__main__":
    main()
