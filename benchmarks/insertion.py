"""Three ways to a synthetic lesion, side by side: from noise, as a variation of a real case, painted into a given film.

    python benchmarks/insertion.py MODEL DATA HELD_OUT OUT

MODEL was trained on the train split of DATA, whose cases are varied. HELD_OUT is a set that it has not seen: its train split
gives the normal films that lesions are painted into, and the real cases that are compared with. For each way: how often an
independent segmenter, trained on the real training cases, sees the lesion (95 % interval), beside how often it does in real
films; its Dice with the mask; real-or-synthetic AUC; and the share that the copy audit calls copies of training films, which of
an inserted lesion is that of its region alone (the rest of the film is real).

    OUT/insertion.md, OUT/insertion.json    the table, and all numbers
    OUT/NAME.png                            the first 24 of each, uncurated
    OUT/NAME/                               the sets, as `macdm generate` wrote them
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch


sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "pipelines"))

from stages import said_in_one_sentence  # noqa: E402

from diffusers_macdm.audit.images import to_audit_size  # noqa: E402
from diffusers_macdm.data.cases import Cases, load_cases  # noqa: E402
from diffusers_macdm.files import begin, write_json, write_text  # noqa: E402
from diffusers_macdm.generate import generate  # noqa: E402
from diffusers_macdm.generate.insertion import place  # noqa: E402
from diffusers_macdm.macdm import MaCDMPipeline  # noqa: E402
from diffusers_macdm.macdm.joint_sample import LESION_MASK  # noqa: E402
from diffusers_macdm.quality import measure  # noqa: E402
from diffusers_macdm.quality.referee import Referee  # noqa: E402
from diffusers_macdm.quality.regions import regions  # noqa: E402
from diffusers_macdm.quality.sets import films_of, masks_of  # noqa: E402
from diffusers_macdm.report.contact_sheet import contact_sheet, save  # noqa: E402
from diffusers_macdm.statistics.proportions import proportion  # noqa: E402


SHOWN = 24
# Name -> what it is, and what `macdm generate` is asked for; DATA and HELD_OUT stand for the sets.
WAYS: dict[str, tuple[str, Mapping[str, object]]] = {
    "from_noise": ("pairs from noise", {}),
    "varied_30": ("real cases noised to Z = 0.3", {"from_data": "DATA", "strength": 0.3}),
    "varied_60": ("real cases noised to Z = 0.6", {"from_data": "DATA", "strength": 0.6}),
    "inserted": (
        "painted into real normal films, outline given",
        {"insert_into": "HELD_OUT", "lesion_masks": "given"},
    ),
    "inserted_open": (
        "painted into real normal films, outline generated",
        {"insert_into": "HELD_OUT", "lesion_masks": "generated"},
    ),
}


def make(args: argparse.Namespace, name: str, source: Mapping[str, object]) -> Cases:
    """Cases with a lesion of one way, masks as sampled; those of an earlier call where they are there."""
    folder = args.out / name
    sets = {"DATA": args.data, "HELD_OUT": args.held_out}
    source = {key: sets.get(value, value) for key, value in source.items()}
    if not (folder / "summary.json").is_file():
        options = {"class_labels": (1,), "seed": args.seed, "batch_size": 32, "refine_masks": False}
        generate(args.model, folder, args.num_pairs, classifier_free_guidance_scale=args.guidance, **options, **source)
    return load_cases(folder, "train", args.size, synthetic=True)


def unchanged_outside(inserted: Cases, folder: Path, real: Cases) -> bool:
    """Whether each film is its real film, bit by bit in 8-bit gray, outside of the region that was painted anew."""
    rows = [json.loads(line) for line in (folder / "train/metadata.jsonl").read_text().splitlines()]
    number = {name: index for index, name in enumerate(real.names)}
    films = films_of(real)
    for film, row in zip(films_of(inserted), rows, strict=True):
        source, lesion_case = number[row["source"]], number[row["lesion_from"]]
        placement = place(real.joint_samples[source], real.joint_samples[lesion_case], row["placement_seed"])
        if (film != films[source])[~placement.region.numpy()].any():
            return False
    return True


class Copies:
    """Copy detectors of whole films, and of regions around lesions."""

    def __init__(self, referee: Referee, seed: int, steps: int):
        train, held_out = referee.judge.train, referee.held_out
        self.films, self.seed = referee.detector, seed
        self.with_lesion = train.select(np.flatnonzero(train.class_labels.numpy() > 0))
        training, null = (_audit_images(regions(cases, self.with_lesion, seed)) for cases in (train, held_out))
        self.regions = referee.judge.copy_detector(training, train.patient_ids, null, steps)

    def share(self, cases: Cases, of_regions: bool) -> dict:
        """Share that is nearer to a training film (or region) than 95 % of held-out ones, and what chance gives."""
        detector = self.regions if of_regions else self.films
        cases = regions(cases, self.with_lesion, self.seed) if of_regions else cases
        return {**proportion(detector.find(_audit_images(cases))), "nominal_rate": detector.nominal_rate}


def _audit_images(cases: Cases) -> torch.Tensor:
    return to_audit_size(films_of(cases) / np.float32(255), cases.size)


def run(args: argparse.Namespace) -> None:
    args.size = MaCDMPipeline.from_pretrained(args.model).unet.config.sample_size
    settings = {name: str(getattr(args, name)) for name in ("model", "data", "held_out", "num_pairs", "guidance", "seed")}
    begin(args.out, settings)
    train, held_out = load_cases(args.data, "train", args.size), load_cases(args.held_out, "train", args.size)
    referee = Referee(train, held_out, seed=args.seed, folder=args.out / "referee", segmenter_steps=args.segmenter_steps)
    copies = Copies(referee, args.seed, args.embedding_steps)
    results = {}
    for name, (what, source) in WAYS.items():
        print(f"== {name}: {what}", flush=True)
        cases = make(args, name, source)
        shown = cases.select(range(min(SHOWN, len(cases))))
        save(
            contact_sheet(films_of(shown), *masks_of(shown), columns=6, title=what, side_by_side=True), args.out / f"{name}.png"
        )
        inserted = "insert_into" in source
        has_lesion = (cases.joint_samples[:, LESION_MASK] > 0).flatten(1).any(dim=1).numpy()
        judged = measure(held_out, cases, judge=referee, seed=args.seed)
        results[name] = {
            "what": what,
            "with_lesion": proportion(has_lesion),
            "lesion_seen": judged["lesion_seen"]["synthetic"]["1"],
            "lesion_seen_real": judged["lesion_seen"]["real"]["1"],
            "fit": judged["fit"],
            "auc": judged["real_or_synthetic_auc"],
            "copies": copies.share(cases.select(np.flatnonzero(has_lesion)) if inserted else cases, of_regions=inserted),
            "unchanged_outside": unchanged_outside(cases, args.out / name, held_out) if inserted else None,
        }
        write_json(args.out / "insertion.json", {"settings": settings, "ways": results}, indent=2)
    write_text(args.out / "insertion.md", table(results))
    print((args.out / "insertion.md").read_text(), end="")


def table(results: Mapping[str, Mapping]) -> str:
    """Markdown: a row for each way, and one of the real films."""

    def share(entry: Mapping) -> str:
        low, high = entry["interval"]
        return f"{entry['value']:.0%} ({low:.0%} to {high:.0%})"

    def dice(result: Mapping, key: str) -> str:
        value = next((m[key] for m in result["fit"] if m["mask"] == "lesion_mask" and m["label"] is None), None)
        return "–" if value is None else f"{value:.2f}"

    lines = ["| way | with a lesion | lesion seen by the segmenter | Dice of the lesion | AUC | copies (chance) |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    first = next(iter(results.values()))
    real_auc = f"{first['auc']['real_versus_real']:.2f}"
    lines += [f"| real, held out | 100% | {share(first['lesion_seen_real'])} | {dice(first, 'real')} | {real_auc} | – |"]
    for result in results.values():
        cells = [result["what"], f"{result['with_lesion']['value']:.0%}", share(result["lesion_seen"]), dice(result, "value")]
        cells += [f"{result['auc']['value']:.2f}", f"{share(result['copies'])} ({result['copies']['nominal_rate']:.0%})"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="folder of a trained pipeline")
    parser.add_argument("data", metavar="DATA", help="the set that trained it")
    parser.add_argument("held_out", metavar="HELD_OUT", help="a set that it has not seen")
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder, or one begun with the same settings")
    parser.add_argument("--num-pairs", type=int, default=96, help="of each way, all with a lesion")
    parser.add_argument("--guidance", type=float, default=1.5, help="classifier-free guidance scale")
    parser.add_argument("--segmenter-steps", type=int, default=1500, help="of the U-Net that looks for lesions")
    parser.add_argument("--embedding-steps", type=int, default=300, help="of the copy audits' embeddings")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    args = parser.parse_args()
    args.out = args.out.resolve()
    with said_in_one_sentence():
        run(args)


if __name__ == "__main__":
    main()
