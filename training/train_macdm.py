"""Train the denoiser of MaC-DM under `accelerate launch`; `diffusers_macdm.training.denoiser` has the code.

accelerate launch training/train_macdm.py --train_data_dir data --resolution 128 --patch_size 2 --output_dir macdm-model
"""

from diffusers_macdm.training.denoiser import main
from diffusers_macdm.training.loop import run_script


if __name__ == "__main__":
    run_script(main)
