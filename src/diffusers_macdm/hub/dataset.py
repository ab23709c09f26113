"""Publishing a synthetic set: `macdm push-dataset`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from huggingface_hub import DatasetCard

from ..data.check import inspect_dataset
from ..data.check_cases import CONTRADICTION
from ..data.layout import IMAGE_COLUMNS, METADATA, OPTIONAL_COLUMNS, PROVENANCE_COLUMNS, REQUIRED_COLUMNS, SPLITS
from ..data.loading import load_pairs
from ..data.pairs import Pairs
from ..files import read_json
from ..generate.synthetic_set import CONTACT_SHEET_FILE, SETTINGS_FILE, SUMMARY_FILE
from .card import dataset_card
from .card_facts import reading_records
from .privacy import (
    DIGESTS_NOTE,
    Pseudonyms,
    pixels_as_png,
    published_row,
    published_settings,
    refuse_links,
    refuse_real_images,
)
from .publish import CARD, LICENSE, Push, Target, json_bytes, left_out_of, publish, refuse_facts_for_own_card
from .settings import PushDatasetSettings


ROWS_PER_FILE = 1000  # a file is held in memory while it is written


def push_dataset(
    data: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    tag: str | None = None,
    license: str | None = None,
    token: str | None = None,
    real_images: bool = False,
    image_digests: bool = False,
    dry_run: bool = False,
    show_progress: bool = False,
) -> Push:
    """Publish a data set of pairs, so that `datasets.load_dataset(repo_id)` and `--dataset_name` of the trainings read it.

    Images and masks become image columns of Parquet files, written anew from their pixels: nothing else that a file carries
    goes along. Pseudonyms stand for the real cases (`source`, `masks_from`) and for `patient_id`: numbers in the order in
    which the set names them, the same one for the same name, without a link to the names or to another set. File names that
    `macdm generate` has not given are replaced by numbers, too. `site` and the label are published as they are.

    Args:
        data: folder in the project's layout.
        repo_id, private, revision, tag, license, token, dry_run: as in `push_model`.
        real_images: publish also what is not synthetic. Pairs are synthetic when `macdm generate` has written the set and
            they keep no mask of a real case.
        image_digests: publish the SHA-256 of each radiograph that trained the model or that a pair was made from, as in
            `push_model`.
        show_progress: whether to show a progress bar while the set is checked.

    Returns:
        [`Push`].

    Raises:
        PermissionError: when the set holds real images or masks and `real_images` is False.
        ValueError: when the folder holds a symbolic link, and when `macdm check` finds a fault, other than a generated pair
            without the lesion that its label asks for.
        FileNotFoundError, FileExistsError, ConnectionError: as in `push_model`.
    """
    folder = Path(data)
    target = Target(repo_id, "dataset", private, revision, tag, token)
    refuse_links(folder)
    report = inspect_dataset(folder, show_progress=show_progress)
    # A model may leave out a lesion that it was asked for: a fact about a generated set that its reader is to know.
    is_generated = (folder / SETTINGS_FILE).is_file()
    contradictions = [fault for fault in report.faults if is_generated and fault.kind == CONTRADICTION]
    faults = [fault for fault in report.faults if fault not in contradictions]
    if faults:
        first = faults[0]
        raise ValueError(
            f"{data} has {len(faults)} fault(s), which `macdm check` lists; the first is {first.file}: {first.reason}"
        )
    sets = {split: load_pairs(folder, split) for split in SPLITS if (folder / split / METADATA).is_file()}
    rows = {split: [pairs[index] for index in range(len(pairs))] for split, pairs in sets.items()}
    notes = refuse_real_images(folder, rows, real_images)
    if contradictions:
        notes.append(f"In {len(contradictions)} of the pairs the lesion mask contradicts the label; `macdm check` lists them.")
    settings = [name for name in (SETTINGS_FILE, SUMMARY_FILE) if (folder / name).is_file()]
    pseudonyms = Pseudonyms()

    with tempfile.TemporaryDirectory(prefix="macdm-push-") as temporary:
        files: dict[str, Path | bytes] = {}
        for pairs in sets.values():
            files |= _parquet_files(pairs, pseudonyms, Path(temporary))
        with reading_records(folder):
            for name in settings:
                files[name] = json_bytes(published_settings(read_json(folder / name, None), pseudonyms, image_digests))
        if settings and (folder / CONTACT_SHEET_FILE).is_file():  # another one may name cases in its captions
            files[CONTACT_SHEET_FILE] = folder / CONTACT_SHEET_FILE
        with reading_records(folder):
            card, more = _dataset_card(folder, repo_id, rows, license)
        files |= card
        if (folder / LICENSE).is_file():
            files[LICENSE] = folder / LICENSE
        if image_digests:
            more = [*more, DIGESTS_NOTE]
        left_out = left_out_of(folder, files, published=rows)
        if dry_run:
            return Push(repo_id, sorted(files), left_out, notes + more)
        done = publish(files, target, _is_of_a_dataset, f"Upload {sum(map(len, rows.values()))} pairs")
    return Push(files=sorted(files), left_out=left_out, notes=notes + more, **done)


def _parquet_files(pairs: Pairs, pseudonyms: Pseudonyms, temporary: Path) -> dict[str, Path]:
    """Write the pairs of one split as `data/SPLIT-00000-of-0000N.parquet`."""
    import datasets

    integers = datasets.Value("int64")
    number, text = datasets.Value("float64"), datasets.Value("string")
    types = dict.fromkeys(IMAGE_COLUMNS, datasets.Image()) | {"label": integers, "seed": integers}
    types |= dict.fromkeys(("placement_seed", "num_inference_steps", "lesion_pixels_unrefined"), integers)
    types |= dict.fromkeys(("guidance_scale", "strength", "classifier_free_guidance_scale"), number)
    types |= {"lesion_inside_anatomy_unrefined": number, "guidance_interval": [number], "refine_masks": datasets.Value("bool")}
    types |= dict.fromkeys(
        ("patient_id", "site", "model", "source", "masks_from", "lesion_from", "lesion_masks", "scheduler"), text
    )
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, *PROVENANCE_COLUMNS)
    present = [name for name in known if name in pairs.column_names]
    features = datasets.Features({name: types[name] for name in present})

    split, num_files = pairs.split, max(1, -(-len(pairs) // ROWS_PER_FILE))
    files = {}
    for number_of_file in range(num_files):
        first = number_of_file * ROWS_PER_FILE
        columns: dict[str, list] = {name: [] for name in present}
        for index in range(first, min(first + ROWS_PER_FILE, len(pairs))):
            published, size = published_row(pairs[index], pseudonyms), pairs.size(index)
            for column, file in pairs.cases[index].files.items():
                stem = "" if file is None else PurePosixPath(file.file_name).stem
                name = f"{stem}.png" if re.fullmatch(r"synthetic_\d+", stem) else f"{split}_{index:06d}.png"
                published[column] = {"path": name, "bytes": pixels_as_png(file, size)}
            for name in present:
                columns[name].append(published.get(name))
        file = f"data/{split}-{number_of_file:05d}-of-{num_files:05d}.parquet"
        target = temporary / Path(file).name
        try:
            table = datasets.Dataset.from_dict(columns, features=features)
        except (ValueError, TypeError, OverflowError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{split}/{METADATA}: a column does not hold what `macdm generate` writes there: {reason}"
            ) from error
        table.to_parquet(str(target))
        files[file] = target
    return files


def _dataset_card(folder: Path, repo_id: str, splits: Iterable[str], license: str | None) -> tuple[dict[str, bytes], list[str]]:
    own = folder / CARD
    if own.is_file():
        refuse_facts_for_own_card(own, license=license)
        return {CARD: own.read_bytes()}, [f"{CARD} of the folder is published as it is, no new card is written."]
    card = DatasetCard(dataset_card(folder, repo_id, license=license))
    # What the card says about files is true of the folder; these are the ones that are published.
    paths = [{"split": split, "path": f"data/{split}-*"} for split in splits]
    card.data.configs = [{"config_name": "default", "data_files": paths}]
    card.data.dataset_info = None  # Parquet files know their features
    return {CARD: str(card).encode()}, []


def _is_of_a_dataset(path: str) -> bool:
    return path.startswith("data/") or path in (SETTINGS_FILE, SUMMARY_FILE, CONTACT_SHEET_FILE)


def run(settings: PushDatasetSettings) -> Push:
    """Publish the set that the settings ask for (see `push_dataset`)."""
    return push_dataset(
        settings.data,
        settings.repo,
        license=settings.license,
        real_images=settings.real_images,
        image_digests=settings.image_digests,
        show_progress=True,
        private=not settings.public,
        revision=settings.revision,
        tag=settings.tag,
        token=settings.token,
        dry_run=settings.dry_run,
    )
