"""Sample from the model that version 0.1.0 saved, with the calls whose latents its `expected.npz` has.

    python sample_saved_model.py FOLDER OUT.npz [DIRECTORY ...]

loads the folder by its own source files, where diffusers-macdm cannot be imported. The directories are added to sys.path: for
an interpreter that was started without any site-packages. tests/macdm/test_saved_models.py runs this.
"""

import importlib.util
import sys


def latents(pipe, expected):
    """Latents `[2, 3, 16, 16]` after the last step of each call; `expected` has the real case that one of them starts from."""
    import torch

    pipe.set_progress_bar_config(disable=True)
    case = {name: torch.from_numpy(expected[name]) for name in ("image", "anatomy_mask", "lesion_mask")}
    calls = {
        "pairs_latents": {"num_inference_steps": 4, "guidance_scale": 1.0},
        "variation_latents": {**case, "strength": 0.6, "num_inference_steps": 10},
    }
    results = {}
    for name, arguments in calls.items():
        kept = []
        pipe(
            class_labels=[0, 1],
            generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
            callback_on_step_end=lambda pipe, step, timestep, values: kept.append(values["latents"]) or values,  # noqa: B023
            **arguments,
        )
        results[name] = kept[-1].numpy()
    return results


def main():
    folder, out, *directories = sys.argv[1:]
    sys.path += directories
    assert importlib.util.find_spec("diffusers_macdm") is None, "diffusers_macdm can be imported here"

    import numpy as np
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    np.savez(out, **latents(pipe, np.load(f"{folder}/expected.npz")))
    print(*(type(part).__module__ for part in (pipe, pipe.unet, pipe.guidance_classifier)))


if __name__ == "__main__":
    main()
