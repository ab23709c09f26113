"""One page about a trained model: real pairs beside synthetic ones, loss curves, and what was measured.

    python pipelines/run_report.py --train_data_dir data --model macdm-model --synthetic synthetic --output_dir report

Writes `index.html` (self-contained), `real_and_synthetic.png`, `loss_curve.png` and `report.json` into a new folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from stages import said_in_one_sentence

from diffusers_macdm.data.dataset import UNLABELED, PairDataset
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.files import new_folder, write_json
from diffusers_macdm.macdm.joint_sample import CHANNELS, NORMAL_LABEL, split
from diffusers_macdm.report.contact_sheet import save, side_by_side_sheet
from diffusers_macdm.report.page import png_source, render, write_index
from diffusers_macdm.report.palette import PALETTE
from diffusers_macdm.report.plots import DASHES


# Further sets of `macdm generate`: kind -> heading and note of its picture.
KINDS = {
    "inserted": (
        "Real normal films with a lesion painted in",
        "The first films, not chosen: the outlined lesion and its surroundings are generated, the rest is the film itself.",
    ),
    "variations": (
        "Variations of real cases",
        "The first cases, not chosen, noised to a part of the way and denoised again.",
    ),
    "given_masks": (
        "New films for given masks",
        "The outlines are those of real cases, the first ones, not chosen; the films are generated.",
    ),
}


def report(
    data: str | Path,
    model: str | Path,
    synthetic: str | Path,
    out: str | Path,
    title: str,
    num_shown: int = 48,
    stages: dict[str, float] | None = None,
    verdict: str | None = None,
    others: Mapping[str, str | Path] | None = None,
    reference: str | Path | None = None,
) -> dict:
    """Write the page and return what `report.json` holds.

    Args:
        data: folder of the real set; the training split is shown, in the shape in which the model saw it.
        model: folder that `train_macdm.py` has written.
        synthetic: folder that `macdm generate` has written.
        out: new folder.
        num_shown: pairs of each kind in the picture.
        stages: seconds by stage, for the page.
        verdict: of the copy audit of these pairs.
        others: further sets of `macdm generate` to be shown, by their kind in `KINDS`.
        reference: picture of the pairs of a longer training, to begin the page with.
    """
    out_dir = Path(out)
    if out_dir.exists():
        raise FileExistsError(f"{out} exists already; choose another --output_dir.")
    for folder, file, writer in (
        (model, "training_config.json", "train_macdm.py"),
        (synthetic, "summary.json", "macdm generate"),
    ):
        if not (Path(folder) / file).is_file():
            raise FileNotFoundError(f"{folder}: there is no {file}, so this is no finished output of {writer}.")
    if num_shown < 2:
        raise ValueError(f"--num_shown {num_shown} is not allowed: at least 2.")
    configuration = json.loads((Path(model) / "training_config.json").read_text())
    log = [json.loads(line) for line in (Path(model) / "training_log.jsonl").read_text().splitlines()]
    summary = json.loads((Path(synthetic) / "summary.json").read_text())
    size = configuration["unet"]["sample_size"]

    seen = set(configuration["data"]["cases"])
    real = PairDataset(load_pairs(data, "train"), size, null_label=UNLABELED)
    real_indices = [index for index, name in enumerate(real.names) if name in seen]
    if not real_indices:
        raise ValueError(f"{data}: the model {model} was trained on none of these cases; give the set that trained it.")
    fake = PairDataset(load_pairs(synthetic, "train"), size, null_label=UNLABELED)
    real_areas, fake_areas = _lesion_areas(real, real_indices), _lesion_areas(fake, range(len(fake)))
    labels = [
        {
            "label": label,
            "num_pairs": row["num_pairs"],
            "with_lesion_unrefined": row["with_lesion_unrefined"],
            "with_lesion": row["with_lesion"],
            "inside": row["lesion_inside_anatomy_unrefined"],
            "area": fake_areas.get(label),
            "real_area": real_areas.get(label),
        }
        for label, row in summary["labels"].items()
    ]
    sheet, shown = _sheet(real, real_indices, fake, num_shown)
    facts = {
        "labels": labels,
        "shown": shown,
        "training": {
            "steps": log[-1]["step"],
            "final_loss": log[-1]["loss"],
            "median_samples_per_second": float(np.median([line["samples_per_second"] for line in log])),
            "parameters": configuration["unet"]["num_parameters"],
            "cases_per_label": configuration["data"]["cases_per_label"],
        },
        "stages": stages,
        "copy_audit": verdict,
        "others": list(others or ()),
        "settings": {"training": configuration["arguments"], "versions": configuration["versions"]},
        "device": "cuda" if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores",
    }

    with new_folder(out_dir) as folder:
        save(sheet, folder / "real_and_synthetic.png")
        for kind, other in (others or {}).items():
            shutil.copyfile(Path(other) / "contact_sheet.png", folder / f"{kind}.png")
        _plot(log).savefig(folder / "loss_curve.png", dpi=100)
        write_json(folder / "report.json", facts, indent=2)
        write_index(folder, _page(title, facts, folder, reference))
    return facts


def _lesion_areas(pairs: PairDataset, indices) -> dict[str, float]:
    """Median share of the image that the lesion covers, by label, over the pairs that have one."""
    areas: dict[str, list[float]] = {}
    for index in indices:
        lesion = split(pairs[index]["joint_sample"])[2] > 0.5
        if lesion.any():
            areas.setdefault(str(pairs.labels[index]), []).append(lesion.float().mean().item())
    return {label: float(np.median(values)) for label, values in areas.items()}


def _sheet(real: PairDataset, real_indices, fake: PairDataset, num_shown: int):
    """As many pairs of each label, half a block each; the first ones, not the best ones."""
    blocks, shown = [], []
    for pairs, indices in ((real, real_indices), (fake, range(len(fake)))):
        chosen = []
        known = sorted({label for label in pairs.labels if label != UNLABELED})
        for label in known:
            chosen += [index for index in indices if pairs.labels[index] == label][: num_shown // len(known)]
        triples = [[x.numpy() for x in split(pairs[index]["joint_sample"])] for index in chosen]
        radiographs, anatomy_masks, lesion_masks = (np.stack(channel) for channel in zip(*triples, strict=True))
        blocks.append((radiographs, anatomy_masks > 0.5, lesion_masks > 0.5))
        shown.append([pairs.names[index] for index in chosen])
    headings = (f"Real ({len(shown[0])})", f"Synthetic ({len(shown[1])})")
    sheet = side_by_side_sheet(*blocks, columns=6, tile=112, headings=headings)
    return sheet, {"real": shown[0], "synthetic": shown[1]}


def _plot(log: list[dict]) -> Figure:
    """Draw L_simple by training step, once by channel and once by quartile of the timestep."""
    steps = [line["step"] for line in log]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    by_channel, by_timestep = figure.subplots(1, 2)
    styles = [{"color": color, "linestyle": dash} for color, dash in zip(PALETTE, ("-", *DASHES), strict=False)]
    for name, style in zip(CHANNELS, styles, strict=False):
        by_channel.plot(steps, [line[f"simple/{name}"] for line in log], label=name.replace("_", " "), **style)
    for quartile in range(4):
        values = [np.nanmean([line.get(f"simple/{name}/q{quartile}", np.nan) for name in CHANNELS]) for line in log]
        by_timestep.plot(steps, values, label=f"t in quartile {quartile + 1}", **styles[quartile])
    by_channel.set(yscale="log", xlabel="step", ylabel="mean squared error", title="L_simple by channel")
    by_timestep.set(yscale="log", xlabel="step", title="L_simple by timestep (1: nearly clean)")
    for axes in (by_channel, by_timestep):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    return figure


def _page(title: str, facts: dict, folder: Path, reference: str | Path | None) -> str:
    training = facts["training"]
    return render(
        Path(__file__).with_name("run_report.html.jinja"),
        title=title,
        sheet=png_source((folder / "real_and_synthetic.png").read_bytes()),
        sheet_note="The first pairs of each set, not chosen; upper half label 0 (normal), lower half label 1 (lesion). "
        "Anatomy mask cyan, lesion mask red.",
        reference=None if reference is None else png_source(Path(reference).read_bytes()),
        others=[(png_source((folder / f"{kind}.png").read_bytes()), *KINDS[kind]) for kind in facts["others"]],
        labels=facts["labels"],
        normal=str(NORMAL_LABEL),
        curve=png_source((folder / "loss_curve.png").read_bytes()),
        training=f"{training['steps']} steps, {training['parameters'] / 1e6:.2f} million parameters, cases per label "
        f"{training['cases_per_label']}, {training['median_samples_per_second']:.0f} samples per second on {facts['device']}.",
        stages=facts["stages"],
        verdict=facts["copy_audit"],
        settings=facts["settings"],
        permille=lambda share: "none" if share is None else f"{1000 * share:.1f} per mille",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_data_dir", required=True, help="The real set.")
    parser.add_argument("--model", required=True, help="Folder that train_macdm.py has written.")
    parser.add_argument("--synthetic", required=True, help="Folder that macdm generate has written.")
    parser.add_argument("--output_dir", required=True, help="New folder for the page.")
    parser.add_argument("--title", default="MaC-DM: real and synthetic pairs")
    parser.add_argument("--num_shown", type=int, default=48, help="Pairs of each kind in the picture.")
    args = parser.parse_args()
    with said_in_one_sentence(continues=False):
        facts = report(args.train_data_dir, args.model, args.synthetic, args.output_dir, args.title, args.num_shown)
    print(json.dumps(facts["labels"], indent=2))
    print(f"page: {args.output_dir}/index.html")


if __name__ == "__main__":
    main()
