"""The console command `macdm`: arguments in, one call of the library, a short result and an exit code out.

Each subcommand has a function `add_NAME(subparsers)` that declares its arguments and names the function that runs it;
the modules behind a command are imported when it runs, so that `macdm --help` stays quick.

Exit codes: 0 done; 1 it could not be done, or `check` found faults; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run `macdm` with these arguments (those of the process when None) and return its exit code."""
    args = build_parser().parse_args(argv)
    # Of files that are local `datasets` says that it downloads them: not what one wants to read beside films of patients.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        from diffusers.utils import logging

        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        logging.disable_progress_bar()
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("\nmacdm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough (`macdm check DATA | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "diffusers_macdm":
            raise
        print(
            f"macdm {args.command}: the package {error.name!r} is missing; install diffusers-macdm[train,eval].",
            file=sys.stderr,
        )
        return 1
    except (ValueError, OSError) as error:  # what the library says about bad input is one sentence already
        print(f"macdm {args.command}: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="macdm",
        description="Synthetic radiographs with an anatomy mask, a lesion mask and a class label (MaC-DM).",
    )
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for add_command in (
        add_check,
        add_phantom,
        add_generate,
        add_audit,
        add_evaluate,
        add_compare,
        add_sweep,
        add_push,
        add_push_dataset,
        add_push_metric,
    ):
        add_command(subparsers)
    return parser


def add_check(subparsers) -> None:
    parser = subparsers.add_parser(
        "check",
        help="list every fault of a data folder",
        description="List every fault of a data folder by file and reason. Exit code 0 when there is none, else 1.",
    )
    parser.add_argument("data", metavar="DATA", help="folder with train/, and optionally validation/ and test/")
    parser.add_argument("--json", metavar="PATH", type=Path, help="also write the report to this new JSON file")
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from ..data.check import inspect_dataset

    _refuse_existing(args.json)
    report = inspect_dataset(args.data, show_progress=sys.stderr.isatty())
    for fault in report.faults:
        print(f"{fault.file}: {fault.reason}")
    for note in report.notes:
        print(f"{note.file}: note: {note.reason}")
    _write_json(args.json, {"data": str(args.data), **report.to_dict()})
    cases = ", ".join(f"{count} in {split}" for split, count in report.num_cases.items()) or "none"
    notes = f", {_count(len(report.notes), 'note')}" if report.notes else ""
    print(f"{_count(len(report.faults), 'fault')}{notes}; cases: {cases}")
    return 1 if report.faults else 0


def add_phantom(subparsers) -> None:
    parser = subparsers.add_parser(
        "phantom",
        help="write the embedded set: procedural distal tibias with and without lesions",
        description="Write a data set of procedural distal tibias with and without metaphyseal lesions.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder")
    parser.add_argument(
        "--num-normal", type=int, default=177, help="cases without a lesion in train; validation and test get a quarter"
    )
    parser.add_argument("--num-lesion", type=int, default=73, help="cases with a lesion in train, likewise")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=0, help="everything random follows from it")
    parser.set_defaults(run=_phantom)


def _phantom(args: argparse.Namespace) -> int:
    from ..phantom.write import write_phantom

    counts = write_phantom(args.out, args.num_normal, args.num_lesion, args.size, args.seed, show_progress=sys.stderr.isatty())
    for split, by_class in counts.items():
        print(f"{split}: " + ", ".join(f"{count} {name}" for name, count in by_class.items()))
    print(f"written to {args.out}")
    return 0


def add_generate(subparsers) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="write a synthetic set with a trained model",
        description="Write a synthetic set: pairs of radiograph and masks, the settings, a summary and a contact sheet. "
        "Called again with the same settings it goes on where an interrupted run stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a trained MaCDMPipeline: folder, or owner/name[@version] on the Hub")
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder, or one that was interrupted")
    parser.add_argument("--num-per-class", metavar="N", type=int, required=True, help="pairs for each label")
    parser.add_argument(
        "--from",
        dest="from_data",
        metavar="DATA",
        help="make variations of the real cases of this data set (with --strength)",
    )
    parser.add_argument("--strength", metavar="Z", type=float, help="noise level of a variation, in (0, 1]; 1 is pure noise")
    parser.add_argument("--masks-from", metavar="DATA", help="take the masks of the real cases of this data set")
    parser.add_argument("--split", default="train", help="split of the real data")
    parser.add_argument("--labels", metavar="LABEL", type=int, nargs="+", help="labels to make; all when not given")
    parser.add_argument("--guidance-scale", metavar="g", type=float, default=0.0, help="classifier guidance; 0 is off")
    parser.add_argument(
        "--guidance-interval",
        metavar=("LO", "HI"),
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        help="noise levels at which guidance acts: 0 is clean, 1 pure noise",
    )
    parser.add_argument(
        "--classifier-free-guidance-scale", metavar="s", type=float, default=1.0, help="classifier-free guidance; 1 is off"
    )
    parser.add_argument("--num-inference-steps", metavar="k", type=int, default=25, help="steps from noise to sample")
    parser.add_argument("--scheduler", metavar="NAME", help="scheduler class of diffusers; the model's when not given")
    parser.add_argument("--seed", type=int, default=0, help="everything random follows from it")
    parser.add_argument("--batch-size", type=int, default=16, help="pairs that are sampled together")
    parser.add_argument("--no-refine-masks", action="store_true", help="leave the generated masks as they are")
    parser.add_argument(
        "--reject-copies",
        metavar="DATA",
        help="make pairs again that the copy audit calls copies of training images in DATA, the set that trained the model",
    )
    parser.add_argument("--device", help="for example cuda or cpu; cuda when not given and there is one")
    parser.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> int:
    from ..generate.run import generate, strength_warning

    if args.from_data is not None and args.strength is not None and args.reject_copies is None:
        warning = strength_warning(args.model, args.strength)
        if warning is not None:
            print(f"macdm generate: warning: {warning}", file=sys.stderr)
    summary = generate(
        args.model,
        args.out,
        args.num_per_class,
        from_data=args.from_data,
        strength=args.strength,
        masks_from=args.masks_from,
        split=args.split,
        guidance_scale=args.guidance_scale,
        guidance_interval=tuple(args.guidance_interval),
        classifier_free_guidance_scale=args.classifier_free_guidance_scale,
        num_inference_steps=args.num_inference_steps,
        scheduler=args.scheduler,
        seed=args.seed,
        batch_size=args.batch_size,
        class_labels=args.labels,
        refine_masks=not args.no_refine_masks,
        reject_copies=args.reject_copies,
        device=args.device,
        progress=sys.stderr.isatty(),
    )
    for label, of_label in summary["labels"].items():
        inside = of_label["lesion_inside_anatomy_unrefined"]
        print(
            f"label {label}: {_count(of_label['num_pairs'], 'pair')}, with a lesion "
            f"{of_label['with_lesion_unrefined']:.1%} before refinement and {of_label['with_lesion']:.1%} after"
            + ("" if inside is None else f"; {inside:.1%} of lesion pixels inside the anatomy before refinement")
        )
    if "rejected_copies" in summary:
        print(f"{_count(summary['rejected_copies'], 'copy', 'copies')} of training images rejected and replaced")
    if summary["num_new"]:
        print(f"{_count(summary['num_new'], 'pair')} made, {summary['seconds_per_pair']:.2f} s each; written to {args.out}")
    else:
        print(f"{args.out} is complete: nothing to do")
    return 0


def add_push(subparsers) -> None:
    parser = subparsers.add_parser(
        "push",
        help="publish a trained pipeline on the Hub",
        description="Publish a trained pipeline on the Hub, by one commit: weights as safetensors in float32 and fp16, "
        "configurations, a model card, and the code that loads them without this package. Checkpoints, logs, names of cases "
        "and local paths are not published. A new repository is private.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a trained MaCDMPipeline")
    _add_hub_arguments(parser)
    parser.add_argument(
        "--variants", nargs="*", default=["fp16"], metavar="V", help="weights beside float32: fp16 (default), bf16, or nothing"
    )
    parser.add_argument("--audit", metavar="DIR", type=Path, help="folder of `macdm audit`, for the card and audit/audit.json")
    parser.add_argument("--evaluation", metavar="DIR", type=Path, help="folder of `macdm evaluate`, for the card")
    parser.add_argument("--synthetic", metavar="DIR", type=Path, help="set that this model has generated, for the card")
    parser.add_argument("--data-description", metavar="TEXT", help="training data's source, consent, licence, for the card")
    parser.set_defaults(run=_push)


def _push(args: argparse.Namespace) -> int:
    from ..hub.publish import push_model

    push = push_model(
        args.model,
        args.repo,
        private=not args.public,
        revision=args.revision,
        tag=args.tag,
        variants=args.variants,
        audit_dir=args.audit,
        evaluation_dir=args.evaluation,
        synthetic_dir=args.synthetic,
        data_description=args.data_description,
        license=args.license,
        token=args.token,
        image_digests=args.image_digests,
        dry_run=args.dry_run,
    )
    _print_push(push, args)
    return 0


def add_push_dataset(subparsers) -> None:
    parser = subparsers.add_parser(
        "push-dataset",
        help="publish a synthetic set on the Hub",
        description="Publish a synthetic set on the Hub, by one commit, as Parquet files that `datasets` and the Hub's viewer "
        "read, with a card. Pseudonyms stand for real cases and patients. A new repository is private.",
    )
    parser.add_argument("data", metavar="DIR", type=Path, help="folder of `macdm generate`")
    _add_hub_arguments(parser)
    parser.add_argument(
        "--real-images",
        action="store_true",
        help="also publish what was not generated: real films or masks of patients, which nobody can take back",
    )
    parser.set_defaults(run=_push_dataset)


def _push_dataset(args: argparse.Namespace) -> int:
    from ..hub.publish import push_dataset

    push = push_dataset(
        args.data,
        args.repo,
        private=not args.public,
        revision=args.revision,
        tag=args.tag,
        license=args.license,
        token=args.token,
        real_images=args.real_images,
        image_digests=args.image_digests,
        dry_run=args.dry_run,
        show_progress=sys.stderr.isatty(),
    )
    _print_push(push, args)
    return 0


def add_push_metric(subparsers) -> None:
    parser = subparsers.add_parser(
        "push-metric",
        help="publish a metric on the Hub",
        description="Publish a metric of this package as a Space of the Hub, by one commit, for `evaluate.load`. A new Space "
        "is private.",
    )
    parser.add_argument(
        "metric", metavar="NAME", help="dice, sensitivity, specificity, balanced_accuracy, roc_auc or hausdorff95"
    )
    _add_repository_arguments(parser)
    parser.set_defaults(run=_push_metric)


def _push_metric(args: argparse.Namespace) -> int:
    from ..hub.publish import push_metric

    push = push_metric(
        args.metric,
        args.repo,
        private=not args.public,
        revision=args.revision,
        tag=args.tag,
        token=args.token,
        dry_run=args.dry_run,
    )
    _print_push(push, args)
    return 0


def _add_repository_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="REPO", help="repository, owner/name; created when it is not there")
    parser.add_argument("--public", action="store_true", help="a new repository is public, and an old one may be")
    parser.add_argument("--tag", metavar="T", help="name of this version; a tag is never moved")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to (default: main)")
    parser.add_argument("--token", help="of the Hub; better: `hf auth login` or the variable HF_TOKEN")
    parser.add_argument("--dry-run", action="store_true", help="list what would be published and ask nobody")


def _add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    _add_repository_arguments(parser)
    parser.add_argument("--license", metavar="L", help="for the card, as the Hub spells it: cc-by-4.0, apache-2.0, ...")
    parser.add_argument(
        "--image-digests",
        action="store_true",
        help="also publish the SHA-256 of each training radiograph, for the leak guard: whoever holds a film can tell that it "
        "is among them",
    )


def _print_push(push, args: argparse.Namespace) -> None:
    for note in push.notes:
        print(f"note: {note}")
    if args.dry_run:
        print("\n".join(push.files))
    if push.left_out:
        print(f"not published: {', '.join(push.left_out)}")
    if args.dry_run:
        print(f"{_count(len(push.files), 'file')} would go to {push.repo_id}; nothing was sent")
        return
    for what, paths in (("replaced", push.replaced), ("deleted", push.deleted)):
        if paths:
            print(f"{what} there: {', '.join(paths)}")
    visibility = "private" if push.private else "public"
    if args.public and push.private:
        print("note: the repository was private before and stays so; change that in its settings on the Hub")
    at = f"commit {push.commit[:8]}" + (f", tag {args.tag}" if args.tag else "")
    if push.changed or push.deleted:
        print(f"{_count(len(push.changed), 'file')} of {len(push.files)} new or changed, {at}; {visibility}: {push.url}")
    else:
        print(f"nothing new, {at}; {visibility}: {push.url}")


def add_audit(subparsers) -> None:
    parser = subparsers.add_parser(
        "audit",
        help="does a synthetic set hold copies of training images?",
        description="Compare each synthetic image with the training images, after the best alignment, and with what validation "
        "images give. Writes audit.json, audit.jsonl (one line for each synthetic image) and index.html into a new folder.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--real", metavar="DATA", required=True, help="real set with train/ and validation/ (and test/)")
    parser.add_argument("--synthetic", metavar="DIR", required=True, help="synthetic set, as `macdm generate` writes it")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder")
    parser.add_argument("--model", metavar="MODEL", help="the model itself: membership inference, and which cases trained it")
    parser.add_argument("--embedding", metavar="DIR", help="folder 'embedding' of an earlier audit of the same training images")
    parser.add_argument(
        "--embedding-steps", metavar="N", type=int, default=400, help="training steps of the embedding otherwise"
    )
    parser.add_argument("--planted", metavar="N", type=int, default=100, help="planted copies of each kind")
    parser.add_argument(
        "--strengths",
        metavar="Z",
        type=float,
        nargs="+",
        default=(),
        help="also make variations of training cases with --model at these strengths, for the curve of copies against Z",
    )
    parser.add_argument("--variations", metavar="N", type=int, default=64, help="variations at each strength")
    parser.add_argument("--seed", type=int, default=0, help="everything random follows from it")
    parser.add_argument("--device", help="for example cuda or cpu; cuda when not given and there is one")
    parser.set_defaults(run=_audit)


def _audit(args: argparse.Namespace) -> int:
    from ..audit.run import audit

    result = audit(
        args.real,
        args.synthetic,
        args.out,
        model=args.model,
        embedding=args.embedding,
        embedding_steps=args.embedding_steps,
        planted=args.planted,
        strengths=args.strengths,
        variations=args.variations,
        seed=args.seed,
        device=args.device,
        progress=sys.stderr.isatty(),
    )
    print(result["verdict"])
    for kind, part in result["sensitivity"].items():
        print(f"planted copies, {kind}: {part['found']} of {part['total']} found")
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"written to {args.out}: audit.json, audit.jsonl, index.html")
    return 0


def add_evaluate(subparsers) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="do the synthetic pairs help a classifier and a segmenter?",
        description="Train a diagnosis classifier (ResNet-34) and a segmenter (U-Net) with and without the synthetic pairs, "
        "all for the same number of steps, and test them on held-out real cases. Writes evaluation.json and index.html into a "
        "new folder. Called again with the same settings it goes on where an interrupted evaluation stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--real", metavar="DATA", required=True, help="real set with train/, validation/ and test/")
    parser.add_argument("--synthetic", metavar="DIR", required=True, help="synthetic set, as `macdm generate` writes it")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder, or one that was interrupted")
    parser.add_argument("--size", type=int, default=128, help="side in pixels that all cases are resampled to")
    parser.add_argument("--seeds", metavar="S", type=int, nargs="+", default=[0, 1, 2], help="of the trainings; 3 for a claim")
    parser.add_argument("--steps", type=int, default=1000, help="optimisation steps of every training")
    parser.add_argument("--batch-size", type=int, default=32, help="of every training")
    parser.add_argument(
        "--validate-every", metavar="N", type=int, default=50, help="steps between looks at the validation cases"
    )
    parser.add_argument(
        "--tasks", nargs="+", default=["diagnosis", "segmentation"], metavar="TASK", help="one of them, or both"
    )
    parser.add_argument(
        "--ratios", metavar="R", type=float, nargs="+", default=[0.25, 0.5, 1, 2, 5], help="synthetic pairs for each real case"
    )
    parser.add_argument("--arms", metavar="ARM", nargs="+", help="arms to train, the controls among them; all when not given")
    parser.add_argument(
        "--filters",
        metavar="F",
        nargs="+",
        default=[],
        help="filters of the synthetic pairs, each compared with none at ratio 1: classifier, segmenter, both (trained on real "
        "cases), network (the model's own image -> masks, with --model)",
    )
    parser.add_argument("--model", metavar="MODEL", help="the model that made the pairs, for the filter 'network'")
    parser.add_argument(
        "--folds", metavar="K", type=int, help="test the held-out cases (validation and test) in turn, by patient"
    )
    parser.add_argument(
        "--leave-one-site-out", action="store_true", help="also test each site without having trained on its cases"
    )
    parser.add_argument(
        "--samples-per-class",
        metavar="N",
        type=int,
        nargs="+",
        help="this many real training cases of label 0, 1, ...: those of the training scripts' --samples_per_class, --seed 0",
    )
    parser.add_argument(
        "--pretrained-classifier", metavar="MODEL", help="ImageNet ResNet-34 of transformers, folder or Hub name, to start from"
    )
    parser.add_argument("--classifier-width", metavar="W", type=int, default=64, help="channels of its first stage")
    parser.add_argument("--segmenter-width", metavar="W", type=int, default=32, help="channels of its first level")
    parser.add_argument(
        "--feature-extractor",
        metavar="MODEL",
        help="for the realism: vision model of transformers (folder or Hub name) or TorchScript file; the diagnosis classifier "
        "trained on real cases when not given",
    )
    parser.add_argument("--skip-realism", action="store_true", help="leave out realism and fit of the masks")
    parser.add_argument("--resamples", metavar="N", type=int, default=2000, help="of the bootstrap over patients")
    parser.add_argument(
        "--allow-unrecorded", action="store_true", help="take for clean what no record tells about the synthetic set"
    )
    parser.add_argument("--device", help="for example cuda or cpu; cuda when not given and there is one")
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from ..evaluation.run import evaluate

    result = evaluate(
        args.real,
        args.synthetic,
        args.out,
        size=args.size,
        seeds=args.seeds,
        steps=args.steps,
        batch_size=args.batch_size,
        validate_every=args.validate_every,
        tasks=args.tasks,
        ratios=args.ratios,
        arms=args.arms,
        filters=args.filters,
        model=args.model,
        folds=args.folds,
        leave_one_site_out=args.leave_one_site_out,
        samples_per_class=args.samples_per_class,
        pretrained_classifier=args.pretrained_classifier,
        classifier_width=args.classifier_width,
        segmenter_width=args.segmenter_width,
        feature_extractor=args.feature_extractor,
        skip_realism=args.skip_realism,
        num_resamples=args.resamples,
        allow_unrecorded=args.allow_unrecorded,
        device=args.device,
        progress=sys.stderr.isatty(),
    )
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"written to {args.out}: evaluation.json, index.html")
    for sentence in result["conclusion"]:
        print(sentence)
    return 0


def add_compare(subparsers) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="MaC-DM beside other generative models: same data, same budget, same evaluation",
        description="Train MaC-DM and other generative models on the same real cases for the same number of steps, draw as "
        "many pairs from each, and measure what they are good for. Writes comparison.json and index.html into a new folder. "
        "Called again with the same settings it goes on where an interrupted comparison stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--real", metavar="DATA", required=True, help="real set; test/ and validation/ or folds are needed")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder, or one that was interrupted")
    parser.add_argument(
        "--models",
        metavar="MODEL",
        nargs="+",
        help="macdm, classifier_free, latent_diffusion, conditional_gan, mask_conditional, guided_ddpm; all when not given",
    )
    parser.add_argument(
        "--folds", metavar="K", type=int, help="divide all cases of the set by patient, and train every model anew in each fold"
    )
    parser.add_argument(
        "--held-out-folds",
        metavar="K",
        type=int,
        help="train every model once, on train/, and test the held-out cases (validation and test) in turn, by patient",
    )
    parser.add_argument(
        "--train-sizes",
        metavar="N,N,...",
        type=_whole_numbers,
        help="numbers of training cases to repeat everything with; all of them when not given",
    )
    parser.add_argument(
        "--samples-per-class", metavar="N", type=int, nargs="+", help="this many training cases of label 0, 1, ... alone"
    )
    parser.add_argument("--num-synthetic", metavar="N", type=int, help="pairs of each model; as many as it has training cases")
    parser.add_argument("--size", type=int, default=64, help="side in pixels that all cases are resampled to")
    budget = parser.add_argument_group("generative models")
    budget.add_argument("--steps", type=int, default=4000, help="training steps of every model, all of its networks together")
    budget.add_argument("--batch-size", type=int, default=16, help="of every model")
    budget.add_argument("--learning-rate", type=float, default=2e-4, help="of every diffusion model")
    budget.add_argument("--gan-learning-rate", type=float, default=2e-4, help="of the GAN's generator and discriminator")
    budget.add_argument("--block-out-channels", metavar="C", type=int, nargs="+", default=[64, 128, 256], help="of every model")
    budget.add_argument("--layers-per-block", type=int, default=2, help="of every denoiser")
    budget.add_argument("--patch-size", type=int, default=1, help="of every denoiser of pixels: p^2 times less work")
    budget.add_argument("--num-inference-steps", type=int, default=50, help="of every diffusion model")
    budget.add_argument("--num-workers", type=int, default=0, help="processes that read ahead")
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument(
        "--seeds", metavar="S", type=int, nargs="+", default=[0, 1, 2], help="of the downstream trainings; 3 for a claim"
    )
    evaluation.add_argument("--eval-steps", type=int, default=1000, help="optimisation steps of every downstream training")
    evaluation.add_argument("--eval-batch-size", type=int, default=32, help="of every downstream training")
    evaluation.add_argument(
        "--validate-every", metavar="N", type=int, default=50, help="steps between looks at the validation cases"
    )
    evaluation.add_argument(
        "--pretrained-classifier", metavar="MODEL", help="ImageNet ResNet-34 of transformers, folder or Hub name, to start from"
    )
    evaluation.add_argument("--classifier-width", metavar="W", type=int, default=64, help="channels of its first stage")
    evaluation.add_argument("--segmenter-width", metavar="W", type=int, default=32, help="channels of its first level")
    evaluation.add_argument(
        "--feature-extractor",
        metavar="MODEL",
        help="for the realism: vision model of transformers (folder or Hub name) or TorchScript file; the diagnosis classifier "
        "trained on real cases when not given",
    )
    evaluation.add_argument("--audit-steps", type=int, default=400, help="training steps of the copy detector's embedding")
    evaluation.add_argument("--resamples", metavar="N", type=int, default=2000, help="of the bootstrap over patients")
    parser.add_argument("--device", help="for example cuda or cpu; cuda when not given and there is one")
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> int:
    from ..comparison.model import TrainingBudget
    from ..comparison.models import MODELS
    from ..comparison.run import compare

    budget = TrainingBudget(
        steps=args.steps,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        gan_learning_rate=args.gan_learning_rate,
        block_out_channels=tuple(args.block_out_channels),
        layers_per_block=args.layers_per_block,
        patch_size=args.patch_size,
        num_inference_steps=args.num_inference_steps,
        num_workers=args.num_workers,
    )
    result = compare(
        args.real,
        args.out,
        models=tuple(MODELS) if args.models is None else args.models,
        budget=budget,
        train_sizes=args.train_sizes,
        samples_per_class=args.samples_per_class,
        folds=args.folds,
        held_out_folds=args.held_out_folds,
        num_synthetic=args.num_synthetic,
        size=args.size,
        seeds=args.seeds,
        eval_steps=args.eval_steps,
        eval_batch_size=args.eval_batch_size,
        validate_every=args.validate_every,
        pretrained_classifier=args.pretrained_classifier,
        classifier_width=args.classifier_width,
        segmenter_width=args.segmenter_width,
        feature_extractor=args.feature_extractor,
        audit_steps=args.audit_steps,
        num_resamples=args.resamples,
        device=args.device,
        progress=sys.stderr.isatty(),
    )
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"written to {args.out}: comparison.json, index.html")
    for sentence in result["conclusion"]:
        print(sentence)
    return 0


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: whole numbers with commas between them, 100,250") from None


def add_sweep(subparsers) -> None:
    parser = subparsers.add_parser(
        "sweep",
        help="what guidance, strength, steps and channel weights do to the pairs",
        description="Measure the pairs of a model at each point of a grid: quality, fit of the masks, class agreement, copies. "
        "Writes sweep.json, sweep.csv and index.html. Called again with the same settings it goes on where an interrupted run "
        "stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a trained MaCDMPipeline: folder, or owner/name[@version] on the Hub")
    parser.add_argument("--real", metavar="DATA", required=True, help="real set with train/ and validation/ (and test/)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="new folder, or one that was interrupted")
    parser.add_argument(
        "--grid",
        metavar="NAME=V,V",
        nargs="+",
        required=True,
        help="values of guidance_scale, guidance_interval (lo:hi), strength (below 1: variations of real training cases), "
        "num_inference_steps; and of w2 and w3 (models of MODEL's size are trained anew for each)",
    )
    parser.add_argument("--full-grid", action="store_true", help="the product of all values; else each is varied alone")
    parser.add_argument("--num-per-class", metavar="N", type=int, default=64, help="pairs of each label at each point")
    parser.add_argument(
        "--eval-steps", metavar="N", type=int, default=1000, help="training steps of the classifier and segmenter that measure"
    )
    parser.add_argument("--width", metavar="N", type=int, help="channels of their first stage; 64 and 32 when not given")
    parser.add_argument(
        "--embedding-steps", metavar="N", type=int, default=400, help="training steps of the copy audit's embedding"
    )
    parser.add_argument(
        "--feature-extractor",
        metavar="PATH_OR_NAME",
        help="transformers vision model (folder or Hub name) or TorchScript file; the diagnosis classifier when not given",
    )
    parser.add_argument("--train-steps", metavar="N", type=int, default=4000, help="training steps of a model for w2 or w3")
    parser.add_argument(
        "--train-seeds", metavar="K", type=int, nargs="+", default=[0, 1, 2], help="one training for each, for w2 and w3"
    )
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="of a model for w2 or w3")
    parser.add_argument(
        "--mask-weighting",
        choices=["input", "signal"],
        help="where w2 and w3 act: on the network's input, or on the clean masks before the noise; as in MODEL when not given",
    )
    parser.add_argument("--batch-size", metavar="N", type=int, default=16, help="of trainings and of sampling")
    parser.add_argument(
        "--samples-per-class",
        metavar="N",
        type=int,
        nargs="+",
        help="this many real training cases of label 0, 1, ...: those of the training scripts' --samples_per_class, --seed 0",
    )
    parser.add_argument(
        "--allow-unrecorded", action="store_true", help="measure although nothing records which cases trained the model"
    )
    parser.add_argument("--seed", type=int, default=0, help="everything else that is random follows from it")
    parser.add_argument("--device", help="for example cuda or cpu; cuda when not given and there is one")
    parser.set_defaults(run=_sweep)


def _sweep(args: argparse.Namespace) -> int:
    from ..sweep.run import parse_grid, sweep

    result = sweep(
        args.model,
        args.real,
        args.out,
        parse_grid(args.grid),
        full_grid=args.full_grid,
        num_per_class=args.num_per_class,
        evaluation_steps=args.eval_steps,
        embedding_steps=args.embedding_steps,
        width=args.width,
        feature_extractor=args.feature_extractor,
        train_steps=args.train_steps,
        train_seeds=args.train_seeds,
        learning_rate=args.learning_rate,
        mask_weighting=args.mask_weighting,
        batch_size=args.batch_size,
        samples_per_class=args.samples_per_class,
        allow_unrecorded=args.allow_unrecorded,
        seed=args.seed,
        device=args.device,
        progress=sys.stderr.isatty(),
    )
    for sentence in result["conclusion"]:
        print(sentence)
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"{_count(len(result['points']), 'point')} measured; written to {args.out}: sweep.json, sweep.csv, index.html")
    return 0


def _count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number or 'no'} {noun if number == 1 else plural or noun + 's'}"


def _refuse_existing(path: Path | None) -> None:
    """Said before the work starts rather than after it."""
    if path is not None and path.exists():
        raise FileExistsError(f"{path} exists already; nothing is overwritten.")
    if path is not None and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write {path.name} into.")


def _write_json(path: Path | None, content: dict) -> None:
    if path is None:
        return
    _refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.rename(path)
