"""A reference model: trained for as long as it takes, its pairs sampled, audited and shown, its weights kept in half precision.

    python pipelines/reference_models.py phantom_64 --output_dir runs/phantom_64

Writes `model_cards/NAME` (or `--cards DIR`/NAME): the pipeline with float16 weights, which `MaCDMPipeline.from_pretrained`
loads, its card (README.md), and `pairs.png`, the first pairs beside real ones. Interrupted, it continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from run_report import report
from stages import ROOT, Stages, launch

from diffusers_macdm import MaCDMPipeline
from diffusers_macdm.audit import audit
from diffusers_macdm.audit.run import AUDIT_FILE
from diffusers_macdm.files import new_folder, read_json, write_json
from diffusers_macdm.generate import generate
from diffusers_macdm.hub.card import model_card
from diffusers_macdm.hub.privacy import published_config
from diffusers_macdm.phantom import write_phantom


@dataclass(frozen=True)
class Reference:
    """How a reference model is made.

    Attributes:
        size: side in pixels.
        training: options of `train_macdm.py` beside data, size and output.
        description: of the training data, for the card.
        license: of the weights.
    """

    size: int
    training: str
    description: str
    license: str


NUM_NORMAL, NUM_LESION, SEED = 177, 73, 0  # of the phantom: as many as the paper has
REFERENCES = {
    "phantom_64": Reference(
        64,
        "--patch_size 4 --block_out_channels 96 80 96 --layers_per_block 1 --train_batch_size 32 --learning_rate 1.2e-3"
        " --max_train_steps 4800 --task_probabilities 0.7 0.05 0.05 0.2 --audit_steps 0",
        "The embedded phantom: procedural distal tibias of infants with and without metaphyseal lesions (macdm phantom"
        f" --num-normal {NUM_NORMAL} --num-lesion {NUM_LESION} --size 64 --seed {SEED}). No patient is involved.",
        "apache-2.0",
    ),
}
SAMPLING = {"classifier_free_guidance_scale": 1.5, "batch_size": 32}
NUM_PAIRS, SHOWN = 64, 24  # of each label; of each kind in the picture


def make(name: str, reference: Reference, out: Path, cards: Path) -> None:
    """Run the stages that are not done yet."""
    data, model, synthetic, audited, page = (out / part for part in ("data", "model", "synthetic", "audit", "report"))
    target = cards / name
    stages = Stages(out, "reference", {"name": name, "training": reference.training})
    stages.run("data", data, lambda: write_phantom(data, NUM_NORMAL, NUM_LESION, reference.size, SEED))
    words = ["--train_data_dir", str(data), "--output_dir", str(model), "--resolution", str(reference.size)]
    words += ["--seed", str(SEED), "--resume_from_checkpoint", "latest", "--checkpoints_total_limit", "1"]
    stages.run("training", model / "model_index.json", lambda: launch("train_macdm.py", [*words, *reference.training.split()]))
    stages.run("pairs", synthetic / "summary.json", lambda: generate(model, synthetic, NUM_PAIRS, seed=SEED, **SAMPLING))
    stages.run(
        "audit",
        audited / AUDIT_FILE,
        lambda: audit(data, synthetic, audited, model=model, seed=SEED, progress=sys.stderr.isatty()),
    )
    verdict = json.loads((audited / AUDIT_FILE).read_text())["verdict"]
    if not page.exists():
        report(data, model, synthetic, page, f"Reference model {name}", SHOWN, stages.seconds, verdict)
    if target.exists():
        raise FileExistsError(f"{target} exists already: delete it to have it made again.")
    with new_folder(target) as folder:
        pipe = MaCDMPipeline.from_pretrained(model).to(dtype=torch.float16)
        pipe.save_pretrained(folder)
        kinds = {folder / pipe.config_name: type(pipe)}
        kinds |= {folder / name / part.config_name: type(part) for name, part in pipe.components.items() if part is not None}
        for path, kind in kinds.items():  # without what says where it was made
            write_json(path, published_config(read_json(path), kind), indent=2)
        shutil.copyfile(page / "real_and_synthetic.png", folder / "pairs.png")
        shutil.copyfile(synthetic / "contact_sheet.png", folder / "samples.png")
        card = model_card(
            model,
            f"your-name/{name}",
            audit_dir=audited,
            synthetic_dir=synthetic,
            data_description=reference.description,
            license=reference.license,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(f"{verdict}\n{target}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=REFERENCES, help="which one")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder of data, training and measures.")
    parser.add_argument("--cards", type=Path, default=ROOT / "model_cards", help="Where the model's folder goes.")
    args = parser.parse_args()
    try:
        make(args.name, REFERENCES[args.name], args.output_dir.resolve(), args.cards.resolve())
    except (FileNotFoundError, FileExistsError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the same command continues") from None


if __name__ == "__main__":
    main()
