"""The method's three first experiments with a trained model, each beside what there is to compare it with.

shape      The masks of held-out cases are given, films are generated from them: does a segmenter that was trained on real films
           see the shape that was given? Beside real films of the same masks, and films of other masks.
guidance   Films from noise at several guidance scales: does a classifier that was trained on real films call them by the label
           that was asked for? Beside held-out real films.
masks      Held-out films are given, masks are generated: Dice with the true masks, beside that of the segmenter, and with the
           masks of other films.

Writes first_experiments.json and first_experiments.png into a new folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from stages import said_in_one_sentence

from diffusers_macdm.data.cases import Cases, load_cases
from diffusers_macdm.evaluation.downstream import LEARNING_RATES, Budget, DownstreamTraining
from diffusers_macdm.evaluation.filters import MaskSampler
from diffusers_macdm.evaluation.judge import Judge
from diffusers_macdm.evaluation.mask_fit import mask_fit
from diffusers_macdm.evaluation.networks import DIAGNOSIS, SEGMENTATION, TASKS
from diffusers_macdm.evaluation.predictions import predict_masks
from diffusers_macdm.files import new_folder, write_json
from diffusers_macdm.generate.pairs import PairRequest, Sampling, make_pairs
from diffusers_macdm.hub.loading import load_pipeline
from diffusers_macdm.macdm.image_processor import radiograph_array
from diffusers_macdm.macdm.joint_sample import join
from diffusers_macdm.provenance.guard import refuse_contaminated
from diffusers_macdm.report.contact_sheet import contact_sheet, save
from diffusers_macdm.seeds import pair_seed
from diffusers_macdm.sweep.measures import class_agreement
from diffusers_macdm.sweep.pairs import sample_pairs


NUM_SHOWN = 4  # cases of each label in the picture, the first ones


def chosen_cases(cases: Cases, per_label: int, seed: int) -> Cases:
    """At most this many of each label, drawn by `seed`."""
    labels, generator = cases.class_labels.numpy(), np.random.default_rng(seed)
    return cases.select(
        np.concatenate([generator.permutation(np.flatnonzero(labels == label))[:per_label] for label in np.unique(labels)])
    )


def films_of_masks(pipe, cases: Cases, guidance_scale: float, steps: int, seed: int, batch_size: int) -> Cases:
    """Generated films with the masks of these cases."""
    sampling = Sampling(guidance_scale=guidance_scale, num_inference_steps=steps)
    films = []
    for first in range(0, len(cases), batch_size):
        requests = [
            PairRequest(int(cases.class_labels[i]), pair_seed(seed, i), cases.joint_samples[i])
            for i in range(first, min(first + batch_size, len(cases)))
        ]
        films += [radiograph_array(pair.radiograph) for pair in make_pairs(pipe, requests, sampling)]
    joint = join(torch.from_numpy(np.stack(films)), *cases.masks.unbind(1))
    return Cases.of(joint, cases.class_labels, patient_ids=cases.patient_ids)


def first_experiments(args: argparse.Namespace):
    """The result, and the picture."""
    pipe = load_pipeline(args.model)
    pipe.set_progress_bar_config(disable=True)
    if pipe.guidance_classifier is None and max(args.guidance_scales) > 0:
        raise ValueError(f"{args.model}: has no guidance classifier, so that --guidance-scales can only be 0.")
    size, num_classes = pipe.unet.config.sample_size, pipe.unet.num_classes
    refuse_contaminated(args.real, "validation", model=args.model, allow_unrecorded=args.allow_unrecorded)
    training, held_out = load_cases(args.real, "train", size), load_cases(args.real, "validation", size)

    widths = {DIAGNOSIS: args.classifier_width, SEGMENTATION: args.segmenter_width}
    budgets = {task: Budget(args.downstream_steps, learning_rate=LEARNING_RATES[task], width=widths[task]) for task in TASKS}
    downstream = DownstreamTraining(budgets, num_classes, pretrained=None, device=torch.device("cpu"))
    judge = Judge(training, downstream, seed=args.seed, show_progress=False)
    segmenter, classifier = judge.network(SEGMENTATION), judge.network(DIAGNOSIS)

    given = chosen_cases(held_out, args.num_cases, args.seed)
    guided = 1.0 if pipe.guidance_classifier is not None else 0.0
    films = films_of_masks(pipe, given, guided, args.num_inference_steps, args.seed, args.batch_size)
    own = MaskSampler(pipe, args.num_inference_steps)
    run = {"guidance_interval": (0.0, 1.0), "strength": 1.0, "num_inference_steps": args.num_inference_steps}
    guidance = []
    for scale in args.guidance_scales:
        made, _ = sample_pairs(
            pipe,
            {**run, "guidance_scale": scale},
            training,
            list(range(num_classes)),
            args.num_pairs,
            args.seed,
            args.batch_size,
        )
        guidance.append({"guidance_scale": scale, **class_agreement(classifier, made, args.seed)})
    result = {
        "shape": mask_fit(segmenter, given, films, args.seed)["measures"],
        "guidance": {"real": class_agreement(classifier, held_out, args.seed), "synthetic": guidance},
        "masks": {
            "model": mask_fit(own, given, given, args.seed)["measures"],
            "segmenter": mask_fit(segmenter, given, given, args.seed)["measures"],
        },
        "cases": {"training": len(training), "held_out": len(held_out), "given": len(given)},
        "settings": {name: value for name, value in vars(args).items() if name not in ("model", "real", "out")},
    }
    shown = chosen_cases(given, NUM_SHOWN, args.seed)
    positions = [given.names.index(name) for name in shown.names]
    generated = torch.from_numpy(predict_masks(own, shown))
    rows = [
        ("real", shown.radiographs, shown.masks),
        ("film made", films.radiographs[positions], shown.masks),
        ("masks made", shown.radiographs, generated),
    ]
    radiographs = torch.cat([(films[:, 0] / 2 + 0.5).clamp(0, 1) for _, films, _ in rows]).numpy()
    masks = torch.cat([outlines for *_, outlines in rows]).numpy()
    captions = [f"{caption}, label {label}" for caption, *_ in rows for label in shown.class_labels.tolist()]
    return result, contact_sheet(radiographs, masks[:, 0], masks[:, 1], captions, columns=len(shown))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="a trained MaCDMPipeline")
    parser.add_argument("--real", metavar="DATA", required=True, help="real set with train/ and validation/")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder")
    parser.add_argument("--num-cases", type=int, default=64, help="held-out cases of each label whose masks or films are given")
    parser.add_argument("--num-pairs", type=int, default=64, help="pairs of each label at each guidance scale")
    parser.add_argument("--guidance-scales", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--num-inference-steps", type=int, default=25, help="of films and of masks")
    parser.add_argument("--downstream-steps", type=int, default=1000, help="training steps of the classifier and the segmenter")
    parser.add_argument("--classifier-width", type=int, default=16, help="channels of the classifier's first stage")
    parser.add_argument("--segmenter-width", type=int, default=16, help="channels of the segmenter's first level")
    parser.add_argument("--batch-size", type=int, default=16, help="of the films")
    parser.add_argument(
        "--allow-unrecorded", action="store_true", help="measure although nothing records which cases trained the model"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} exists; nothing is overwritten.")
    counts = ("num_cases", "num_pairs", "num_inference_steps", "downstream_steps", "classifier_width", "segmenter_width")
    for name in (*counts, "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)} is not allowed: at least 1 is needed.")
    if args.seed < 0 or min(args.guidance_scales) < 0:
        parser.error("--seed and --guidance-scales must not be negative.")
    with said_in_one_sentence(continues=False):
        result, picture = first_experiments(args)
    with new_folder(args.out) as folder:
        save(picture, folder / "first_experiments.png")
        write_json(folder / "first_experiments.json", result)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
