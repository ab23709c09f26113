"""A reference model: trained for as long as it takes, its pairs sampled, audited and shown, its weights kept in half precision.

    python pipelines/reference_models.py phantom_64 --output_dir runs/phantom_64
    python pipelines/reference_models.py fracatlas_lower_leg_64 --data fracatlas_leg_roi --output_dir runs/lower_leg_64

Writes `model_cards/NAME` (or `--cards DIR`/NAME): the pipeline with float16 weights, which `MaCDMPipeline.from_pretrained`
loads, and its card (README.md); `measures.json`, its refined pairs beside real ones that it has not seen; `pairs.png`, the
first pairs beside real ones; `inserted.png`, lesions painted into normal films of the validation split. Interrupted, it
continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from run_report import report
from stages import ROOT, Stages, launch, said_in_one_sentence

from diffusers_macdm import MaCDMPipeline
from diffusers_macdm.audit import audit
from diffusers_macdm.audit.run import AUDIT_FILE
from diffusers_macdm.data.cases import Cases, load_cases
from diffusers_macdm.data.layout import FOLDERS
from diffusers_macdm.files import new_folder, read_json, write_json
from diffusers_macdm.generate import generate
from diffusers_macdm.hub.card import model_card
from diffusers_macdm.hub.privacy import published_config
from diffusers_macdm.phantom import write_phantom
from diffusers_macdm.quality import measure


@dataclass(frozen=True)
class Reference:
    """How a reference model is made.

    Attributes:
        size: side in pixels.
        write_data: writes the training set to a new folder, from the folder given as `--data` or from nothing.
        held_out: real cases that are compared with, from the folder of the training set.
        training: options of `train_macdm.py` beside data, size and output.
        description: of the training data, for the card.
        license: of the weights.
    """

    size: int
    write_data: Callable[[Path | None, Path], object]
    held_out: Callable[[Path], Cases]
    training: str
    description: str
    license: str


LOWER_LEGS = Path(__file__).with_name("fracatlas_lower_legs.txt")
NUM_NORMAL, NUM_LESION, SEED = 177, 73, 0  # of the phantom: as many as the paper has


def phantoms(source: Path | None, out: Path) -> None:
    """Write the phantom's training set."""
    if source is not None:
        raise ValueError(f"--data {source} has no effect: the phantom is made by this recipe.")
    write_phantom(out, NUM_NORMAL, NUM_LESION, 64, SEED)


def other_phantoms(data: Path) -> Cases:
    """Phantoms of another seed, as many."""
    other = data.with_name("held_out")
    if not other.exists():
        write_phantom(other, NUM_NORMAL, NUM_LESION, 64, SEED + 1)
    return load_cases(other, "train", 64)


def lower_legs(source: Path | None, out: Path) -> None:
    """Write the cases of fracatlas_leg_roi that `fracatlas_lower_legs.txt` names, in the splits that they have."""
    if source is None or not (source / "train/metadata.jsonl").is_file():
        raise FileNotFoundError(f"--data {source}: the folder of fracatlas_leg_roi is needed, with train/metadata.jsonl.")
    chosen = {name for name in LOWER_LEGS.read_text().splitlines() if not name.startswith("#")}
    with new_folder(out) as folder:
        for split in ("train", "validation"):
            rows = [json.loads(line) for line in (source / split / "metadata.jsonl").read_text().splitlines()]
            rows = [row for row in rows if Path(row["image_file_name"]).stem in chosen]
            rows.sort(key=lambda row: row["label"])  # the draws of the training go by the order
            for name in (row[f"{column}_file_name"] for row in rows for column in FOLDERS):
                (folder / split / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / split / name, folder / split / name)
            (folder / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


REFERENCES = {
    "phantom_64": Reference(
        64,
        phantoms,
        other_phantoms,
        "--patch_size 4 --block_out_channels 96 80 96 --layers_per_block 1 --train_batch_size 32 --learning_rate 1.2e-3"
        " --max_train_steps 4800 --task_probabilities 0.7 0.05 0.05 0.2 --audit_steps 0",
        "The embedded phantom: procedural distal tibias of infants with and without metaphyseal lesions (macdm phantom"
        f" --num-normal {NUM_NORMAL} --num-lesion {NUM_LESION} --size 64 --seed {SEED}). No patient is involved.",
        "apache-2.0",
    ),
    "fracatlas_lower_leg_64": Reference(
        64,
        lower_legs,
        lambda data: load_cases(data, "validation", 64),
        # The 28 fractures a third of the draws: at half of them each would be seen five times as often as a normal film.
        "--patch_size 4 --block_out_channels 96 80 96 --layers_per_block 1 --train_batch_size 32 --learning_rate 1.2e-3"
        " --max_train_steps 9500 --task_probabilities 0.65 0.05 0.05 0.25 --audit_steps 0 --balance sqrt --horizontal_flip",
        "174 regions (28 with a fracture) of fracatlas_leg_roi that show tibia and fibula from the front, shaft or ankle,"
        " chosen by eye: regions of 96 px of leg radiographs of FracAtlas (Abedeen et al., Scientific Data 10, 521, 2023, doi"
        " 10.1038/s41597-023-02432-4, CC BY 4.0), reduced to 64 px; bone masks derived by local contrast, fracture outlines by"
        " radiologists.",
        "cc-by-4.0",
    ),
}
SAMPLING = {"classifier_free_guidance_scale": 1.5, "batch_size": 32}
NUM_PAIRS, NUM_INSERTED, SHOWN = 64, 24, 24  # of each label; with a lesion; of each kind in the picture


def make(name: str, reference: Reference, data_source: Path | None, out: Path, cards: Path) -> None:
    """Run the stages that are not done yet."""
    parts = ("data", "model", "synthetic", "inserted", "audit", "report")
    data, model, synthetic, inserted, audited, page = (out / part for part in parts)
    target = cards / name
    stages = Stages(out, "reference", {"name": name, "training": reference.training})
    stages.run("data", data, lambda: reference.write_data(data_source, data))
    words = ["--train_data_dir", str(data), "--output_dir", str(model), "--resolution", str(reference.size)]
    words += ["--seed", str(SEED), "--resume_from_checkpoint", "latest", "--checkpoints_total_limit", "1"]
    stages.run("training", model / "model_index.json", lambda: launch("train_macdm.py", [*words, *reference.training.split()]))
    stages.run("pairs", synthetic / "summary.json", lambda: generate(model, synthetic, NUM_PAIRS, seed=SEED, **SAMPLING))
    into = {"insert_into": data, "split": "validation"}
    stages.run(
        "inserted",
        inserted / "summary.json",
        lambda: generate(model, inserted, NUM_INSERTED, seed=SEED, **into, **SAMPLING),
    )
    stages.run(
        "audit",
        audited / AUDIT_FILE,
        lambda: audit(data, synthetic, audited, model=model, seed=SEED, progress=sys.stderr.isatty()),
    )
    measures = out / "measures.json"
    stages.run(
        "measures",
        measures,
        lambda: write_json(
            measures,
            measure(reference.held_out(data), load_cases(synthetic, "train", reference.size, synthetic=True), seed=SEED),
            indent=2,
        ),
    )
    verdict = json.loads((audited / AUDIT_FILE).read_text())["verdict"]
    if not page.exists():
        report(data, model, synthetic, page, f"Reference model {name}", SHOWN, stages.seconds, verdict)
    if target.exists():
        raise FileExistsError(f"{target} exists already: delete it to have it made again.")
    write_folder(reference, out, target)
    print(f"{verdict}\n{target}")


def write_folder(reference: Reference, out: Path, target: Path) -> None:
    """Write the model's folder from what the stages have made in `out`."""
    model, synthetic = out / "model", out / "synthetic"
    with new_folder(target) as folder:
        pipe = MaCDMPipeline.from_pretrained(model).to(dtype=torch.float16)
        pipe.save_pretrained(folder)
        kinds = {folder / pipe.config_name: type(pipe)}
        kinds |= {folder / name / part.config_name: type(part) for name, part in pipe.components.items() if part is not None}
        for path, kind in kinds.items():  # without what says where it was made
            write_json(path, published_config(read_json(path), kind), indent=2)
        shutil.copyfile(out / "report/real_and_synthetic.png", folder / "pairs.png")
        shutil.copyfile(synthetic / "contact_sheet.png", folder / "samples.png")
        shutil.copyfile(out / "inserted/contact_sheet.png", folder / "inserted.png")
        shutil.copyfile(out / "measures.json", folder / "measures.json")
        card = model_card(
            model,
            f"your-name/{target.name}",
            audit_dir=out / "audit",
            synthetic_dir=synthetic,
            data_description=reference.description,
            license=reference.license,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=REFERENCES, help="which one")
    parser.add_argument("--data", type=Path, help="Folder of the data set that the model is trained on, if it is a public one.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder of data, training and measures.")
    parser.add_argument("--cards", type=Path, default=ROOT / "model_cards", help="Where the model's folder goes.")
    args = parser.parse_args()
    with said_in_one_sentence():
        make(args.name, REFERENCES[args.name], args.data, args.output_dir.resolve(), args.cards.resolve())


if __name__ == "__main__":
    main()
