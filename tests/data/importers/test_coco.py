"""`macdm import-coco`: outlines become the masks that they outline, and what is none is left out by name."""

import json

import numpy as np
import pytest
from data_folders import save
from PIL import Image
from skimage.draw import polygon2mask

from diffusers_macdm.commands import main as cli
from diffusers_macdm.data.check import inspect_dataset
from diffusers_macdm.data.decoding import Unreadable
from diffusers_macdm.data.importers.coco import outlined_mask, run
from diffusers_macdm.data.importers.settings import CocoSettings


HEIGHT, WIDTH = 30, 40
SQUARE = [10.0, 5.0, 20.0, 5.0, 20.0, 12.0, 10.0, 12.0]  # 10 x 7 pixels


def mask_of(*segmentations, height=HEIGHT, width=WIDTH):
    return outlined_mask([{"id": 1, "segmentation": segmentation} for segmentation in segmentations], height, width)


def run_lengths(mask: np.ndarray) -> dict:
    """Uncompressed run lengths of COCO: down the columns, outside first."""
    values = np.concatenate([[0], mask.T.ravel().astype(int), [2]])
    ends = np.flatnonzero(np.diff(values) != 0)
    counts = np.diff(np.concatenate([[0], ends]))
    return {"size": list(mask.shape), "counts": [int(count) for count in counts]}


def test_a_square_has_its_area_and_place():
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[5:12, 10:20] = True
    np.testing.assert_array_equal(mask_of([SQUARE]), expected)


def test_a_polygon_has_the_area_of_the_shoelace_formula():
    points = np.array([[3.2, 4.1], [33.7, 8.9], [25.5, 27.3], [8.4, 22.8]])  # x, y
    x, y = points.T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    mask = mask_of([points.ravel().tolist()])
    around = np.linalg.norm(points - np.roll(points, -1, axis=0), axis=1).sum()
    assert abs(mask.sum() - area) < around / 2  # half a pixel along the border at most
    independent = polygon2mask((HEIGHT, WIDTH), points[:, ::-1] - 0.5)  # scikit-image counts from pixel centres
    assert (mask ^ independent).sum() < around / 2


def test_run_lengths_packed_or_not_and_several_annotations_are_united():
    from pycocotools import mask as coco_mask

    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.3
    np.testing.assert_array_equal(mask_of(run_lengths(mask)), mask)
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    packed = {"size": packed["size"], "counts": packed["counts"].decode()}
    np.testing.assert_array_equal(mask_of(packed), mask)
    np.testing.assert_array_equal(mask_of(packed, [SQUARE]), mask | mask_of([SQUARE]))
    np.testing.assert_array_equal(
        mask_of([SQUARE, [0, 0, 4, 0, 4, 3, 0, 3]]), mask_of([SQUARE]) | mask_of([[0, 0, 4, 0, 4, 3, 0, 3]])
    )


@pytest.mark.parametrize(
    "segmentation, sentence",
    [
        ([], "has no outline"),
        (None, "has no outline"),
        ([[1, 2, 3, 4]], "no list x, y, x, y"),
        ([[1, 2, 3, 4, 5, 6, 7]], "no list x, y, x, y"),
        ([[[1, 2], [3, 4], [5, 6]]], "no list x, y, x, y"),
        ([[1, 2, float("nan"), 4, 5, 6]], "far outside"),
        ([[1, 2, 1e12, 4, 5, 6]], "far outside"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 5]}, "do not add up to its 30 x 40 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": [-5, 1205]}, "do not add up"),
        ({"size": [WIDTH, HEIGHT], "counts": [1200]}, r"has the size \[40, 30\], its image \[30, 40\]"),
        ({"size": [HEIGHT, WIDTH], "counts": None}, "has no runs"),
        ({"size": [HEIGHT, WIDTH], "counts": "o" * 500}, "has no runs"),
        ({"size": [HEIGHT, WIDTH], "counts": "04"}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": "0" + "oo2" * 40}, "do not add up"),
    ],
)
def test_what_is_no_outline_is_refused(segmentation, sentence):
    with pytest.raises(Unreadable, match=sentence):
        mask_of(segmentation)


@pytest.fixture
def lab(tmp_path):
    """12 films; the first four have a fracture, the fifth a tumour, all have a bone."""
    content = {"images": [], "annotations": [], "categories": []}
    for number, name in enumerate(("bone", "fracture", "tumour", "marker")):
        content["categories"].append({"id": number, "name": name})
    (tmp_path / "films").mkdir()

    def annotate(image, category, segmentation):
        number = len(content["annotations"])
        content["annotations"].append({"id": number, "image_id": image, "category_id": category, "segmentation": segmentation})

    for number in range(12):
        values = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
        save(tmp_path / f"films/{number}.png", values)
        content["images"].append({"id": number + 50, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
        annotate(number + 50, 0, [[2, 2, 38, 2, 38, 28, 2, 28]])
        if number < 5:
            annotate(number + 50, 1 if number < 4 else 2, [SQUARE])
    content["annotations"].append({"id": 99, "image_id": 50, "category_id": 3, "segmentation": [SQUARE]})
    return tmp_path, content


def import_coco(lab, **options):
    folder, content = lab
    (folder / "coco.json").write_text(json.dumps(content))
    return run(CocoSettings(folder / "films", folder / "coco.json", folder / "out", **options), show_progress=False)


def rows_of(out):
    rows = [json.loads(line) for path in sorted(out.glob("*/metadata.jsonl")) for line in path.read_text().splitlines()]
    return {row["image_file_name"][len("images/") : -len(".png")]: row for row in rows}


def test_categories_become_masks_and_labels(lab):
    imported = import_coco(lab, lesion=("fracture", "tumour"), anatomy=("bone",), splits=(1, 0, 0))
    out = lab[0] / "out"
    assert not imported.left_out and inspect_dataset(out).faults == []
    assert [note.kind for note in imported.notes] == ["other category", "no patients"]
    rows = rows_of(out)
    assert [rows[str(number)]["label"] for number in range(12)] == [1] * 4 + [2] + [0] * 7
    for number in range(12):
        row = rows[str(number)]
        anatomy = np.asarray(Image.open(out / "train" / row["anatomy_mask_file_name"]))
        np.testing.assert_array_equal(anatomy != 0, mask_of([[2, 2, 38, 2, 38, 28, 2, 28]]))
        if number < 5:
            lesion = np.asarray(Image.open(out / "train" / row["lesion_mask_file_name"]))
            np.testing.assert_array_equal(lesion != 0, mask_of([SQUARE]))
        else:
            assert row["lesion_mask_file_name"] is None


def test_every_fault_is_named_and_the_rest_goes_on(lab, capsys):
    folder, content = lab
    content["images"].append({"id": 90, "file_name": "gone.png", "height": HEIGHT, "width": WIDTH})
    content["images"].append({"id": 91, "file_name": "../gone.png", "height": HEIGHT, "width": WIDTH})
    content["annotations"] += [{"id": 100, "image_id": 7, "category_id": 1, "segmentation": [SQUARE]}]
    content["annotations"][1]["segmentation"] = []  # of film 0
    content["annotations"].append({"id": 101, "image_id": 51, "category_id": 2, "segmentation": [SQUARE]})
    content["images"][2] |= {"height": 31}
    path = folder / "films/3.png"
    path.write_bytes(path.read_bytes()[:-40])
    (folder / "coco.json").write_text(json.dumps(content))
    words = [str(folder / name) for name in ("films", "coco.json", "out")]
    assert cli.main(["import-coco", *words, "--lesion", "fracture", "tumour", "--splits", "1", "0", "0"]) == 1
    printed = capsys.readouterr().out
    for sentence in (
        "gone.png: left out: coco.json names it, but it is not in films.",
        "'../gone.png': left out: is no path inside of films.",
        "coco.json: left out: annotation 100 belongs to the image 7, which is not there.",
        "0.png: left out: 0.png (lesion in coco.json): annotation 1 has no outline (a box alone is none).",
        "1.png: left out: has lesions of two kinds (fracture and tumour): --labels has to say its label.",
        "2.png: left out: 2.png (lesion in coco.json): 40 x 31 pixels, but its radiograph 2.png has 40 x 30.",
        "3.png: left out: cannot be decoded",
    ):
        assert sentence in printed, sentence
    assert "label 1 has no case and label 2 has" in printed and "nothing was written" in printed  # film 4 alone has a lesion
    assert not (folder / "out").exists()
    assert cli.main(["import-coco", *words, "--lesion", "tumour", "--splits", "1", "0", "0"]) == 1
    assert "taken: 11 films (11 in train); left out: 3 files; written to" in capsys.readouterr().out
    assert inspect_dataset(folder / "out").num_cases == {"train": 11}


def test_a_film_without_an_anatomy_outline_is_left_out(lab):
    lab[1]["annotations"] = [a for a in lab[1]["annotations"] if a["image_id"] != 59]
    imported = import_coco(lab, lesion=("fracture",), anatomy=("bone",), splits=(1, 0, 0))
    assert [(fault.file, fault.reason) for fault in imported.left_out] == [("9.png", "has no anatomy outline in coco.json.")]


@pytest.mark.parametrize("tells", [True, False])
def test_outlines_on_a_film_that_is_turned(tells, lab):
    """Its size tells on what the outlines were drawn: on the film as it is shown, where it has that size."""
    folder, content = lab
    values = np.random.default_rng(70).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    save(folder / "films/0.png", values, orientation=6 if tells else 3)
    imported = import_coco(lab, lesion=("fracture",), splits=(1, 0, 0))
    if tells:
        assert not imported.left_out
        np.testing.assert_array_equal(np.asarray(Image.open(folder / "out/train/images/0.png")), values)
        lesion = np.asarray(Image.open(folder / "out/train/lesion/0.png")) != 0
        np.testing.assert_array_equal(lesion, mask_of([SQUARE]))
    else:
        assert [fault.kind for fault in imported.left_out] == ["turned otherwise"]


@pytest.mark.parametrize(
    "change, options, sentence",
    [
        ({}, {}, "has the categories 'bone', 'fracture', 'tumour', 'marker': say by --lesion"),
        ({}, {"lesion": ("crack",)}, "--lesion crack: .* has no such category"),
        ({}, {"lesion": ("bone",), "anatomy": ("bone",)}, "--lesion bone: the category is named twice"),
        ({"annotations": {}}, {"lesion": ("fracture",)}, "is no COCO file of outlines: a list 'annotations'"),
        (
            {"images": [{"id": 1, "file_name": "0.png"}] * 2},
            {"lesion": ("fracture",)},
            "'0.png' or its id 1 stands there twice",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(change, options, sentence, lab):
    lab[1].update(change)
    with pytest.raises(ValueError, match=sentence):
        import_coco(lab, **options)
    assert not (lab[0] / "out").exists()


def test_without_pycocotools_a_sentence_says_what_to_install(lab, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.mask", None)
    assert cli.main(["import-coco", "a", "b", "c", "--lesion", "x"]) == 1
    assert (
        capsys.readouterr().err
        == "macdm import-coco: the package 'pycocotools.mask' is missing; install diffusers-macdm[import].\n"
    )
