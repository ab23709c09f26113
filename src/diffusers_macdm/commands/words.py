"""What each command prints when it is done: a short result, and where it lies."""

from __future__ import annotations


MOST_NOTES = 10  # of a kind, of an import


def check(settings, report) -> int:
    """Print every fault and note; the exit code is 1 where there is a fault."""
    for fault in report.faults:
        print(f"{fault.file}: {fault.reason}")
    for note in report.notes:
        print(f"{note.file}: note: {note.reason}")
    cases = ", ".join(f"{number} in {split}" for split, number in report.num_cases.items()) or "none"
    notes = f", {count(len(report.notes), 'note')}" if report.notes else ""
    print(f"{count(len(report.faults), 'fault')}{notes}; cases: {cases}")
    return 1 if report.faults else 0


def phantom(settings, counts) -> None:
    """Print the number of cases of each class by split."""
    for split, by_class in counts.items():
        print(f"{split}: " + ", ".join(f"{number} {name}" for name, number in by_class.items()))
    print(f"written to {settings.out}")


def show(settings, path) -> None:
    """Print where the contact sheet is."""
    print(f"written to {path}")


def plan(settings, plan) -> None:
    """Print what was planned, why, and the next step."""
    for sentence in plan["reasons"]:
        print(sentence)
    advice = plan["region_of_interest"]
    print(f"Region of interest: {'advised' if advice['advised'] else 'not advised'}. {advice['why']}")
    expected, denoiser = plan["expected"], plan["denoiser"]
    print(
        f"{denoiser['resolution']} px, {denoiser['max_train_steps']:,} updates, {expected['seconds'] / 60:.1f} min expected on "
        f"{plan['device']['device']}"
    )
    print(f"written to {settings.out}: plan.json, plan/index.html; go on with `macdm train {settings.data} {settings.out}`")


def train(settings, result) -> None:
    """Print the verdict, the time, and where the model is."""
    if result["verdict"] is not None:
        print(result["verdict"])
    said = "" if result["said"] is None else f" (said after 20 updates: {result['said'] / 60:.1f} min)"
    print(f"{result['took'] / 60:.1f} minutes{said}")
    print(f"written to {settings.out}: index.html, model")
    print(
        f"go on with `macdm generate {settings.out}/model {settings.out}/synthetic_1000 --num-per-class 500 "
        "--classifier-free-guidance-scale 1.5`"
    )


def regions(settings, result) -> int:
    """Print how many regions were cut, and what was left out; the exit code is 1 where something was."""
    return imported(settings, result, "region")


def imported(settings, result, noun: str = "film") -> int:
    """Print what was left out and why, and how much was taken; the exit code is 1 where something was left out unasked."""
    for fault in result.left_out:
        print(f"{fault.file}: left out: {fault.reason}")
    kinds: dict[str, int] = {}
    for note in result.notes:
        kinds[note.kind] = kinds.get(note.kind, 0) + 1
        if kinds[note.kind] <= MOST_NOTES:
            print(f"{note.file}: note: {note.reason}")
    for kind, number in kinds.items():
        if number > MOST_NOTES:
            print(f"note: {number - MOST_NOTES} more of this kind: {kind}.")
    taken = ", ".join(f"{number} in {split}" for split, number in result.taken.items())
    left_out = count(len({fault.file for fault in result.left_out}), "file")
    asked = f", and {len(result.as_asked)} as asked" if result.as_asked else ""
    where = f"; written to {settings.out}" if taken else "; nothing was written"
    if result.refused:
        print(f"{settings.out} was not written: {result.refused}")
    taken = f"{count(sum(result.taken.values()), noun)} ({taken})" if taken else f"no {noun}"
    print(f"taken: {taken}; left out: {left_out}{asked}{where}")
    return 1 if result.left_out or not result.taken else 0


def generate(settings, summary) -> None:
    """Print how many pairs of each label have a lesion, and how long a pair took."""
    for label, numbers in summary["labels"].items():
        if numbers["with_lesion"] is None:
            print(f"label {label}: {count(numbers['num_pairs'], 'pair')}; the model makes no lesion outlines")
            continue
        inside = numbers["lesion_inside_anatomy_unrefined"]
        print(
            f"label {label}: {count(numbers['num_pairs'], 'pair')}, with a lesion "
            f"{numbers['with_lesion_unrefined']:.1%} before refinement and {numbers['with_lesion']:.1%} after"
            + ("" if inside is None else f"; {inside:.1%} of lesion pixels inside the anatomy before refinement")
        )
    if "rejected_copies" in summary:
        print(f"{count(summary['rejected_copies'], 'copy', 'copies')} of training images rejected and replaced")
    if summary["num_new"]:
        seconds = summary["seconds_per_pair"]
        print(f"{count(summary['num_new'], 'pair')} made, {seconds:.2f} s each; written to {settings.out}")
    else:
        print(f"{settings.out} is complete: nothing to do")


def audit(settings, result) -> None:
    """Print the verdict, and what the audit finds of planted copies."""
    print(result["verdict"])
    for kind, found in result["sensitivity"].items():
        print(f"planted copies, {kind}: {found['found']} of {found['total']} found")
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"written to {settings.out}: audit.json, audit.jsonl, index.html")


def evaluate(settings, result) -> None:
    """Print the notes and the conclusion."""
    _conclude(settings, result, "evaluation.json, index.html")


def compare(settings, result) -> None:
    """Print the notes and the conclusion."""
    _conclude(settings, result, "comparison.json, index.html")


def sweep(settings, result) -> None:
    """Print the findings, the notes and the number of points."""
    for sentence in result["conclusion"]:
        print(sentence)
    for note in result["notes"]:
        print(f"note: {note}")
    points = count(len(result["points"]), "point")
    print(f"{points} measured; written to {settings.out}: sweep.json, sweep.csv, index.html")


def push(settings, pushed) -> None:
    """Print what went to the Hub, or would go there."""
    for note in pushed.notes:
        print(f"note: {note}")
    if settings.dry_run:
        print("\n".join(pushed.files))
    if pushed.left_out:
        print(f"not published: {', '.join(pushed.left_out)}")
    if settings.dry_run:
        print(f"{count(len(pushed.files), 'file')} would go to {pushed.repo_id}; nothing was sent")
        return
    for what, paths in (("replaced", pushed.replaced), ("deleted", pushed.deleted)):
        if paths:
            print(f"{what} there: {', '.join(paths)}")
    if settings.public and pushed.private:
        print("note: the repository was private before and stays so; change that in its settings on the Hub")
    at = f"commit {pushed.commit[:8]}" + (f", tag {settings.tag}" if settings.tag else "")
    end = f"{at}; {'private' if pushed.private else 'public'}: {pushed.url}"
    if pushed.changed or pushed.deleted:
        print(f"{count(len(pushed.changed), 'file')} of {len(pushed.files)} new or changed, {end}")
    else:
        print(f"nothing new, {end}")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Say a number of things: "no faults", "1 fault", "2 faults"."""
    return f"{number or 'no'} {noun if number == 1 else plural or noun + 's'}"


def _conclude(settings, result, files: str) -> None:
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"written to {settings.out}: {files}")
    for sentence in result["conclusion"]:
        print(sentence)
