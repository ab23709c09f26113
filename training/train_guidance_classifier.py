"""Train the guidance classifier of MaC-DM under `accelerate launch`; `diffusers_macdm.training.classifier` has the code.

accelerate launch training/train_guidance_classifier.py --train_data_dir data --resolution 128 --output_dir macdm-model
"""

from diffusers_macdm.training.classifier import main
from diffusers_macdm.training.loop import run_script


if __name__ == "__main__":
    run_script(main)
