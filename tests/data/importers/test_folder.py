"""`macdm import-folder`: the gray values, masks, labels and patients that come out are those that went in."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from data_folders import save
from PIL import Image

from diffusers_macdm.commands import main as cli
from diffusers_macdm.data.check import inspect_dataset
from diffusers_macdm.data.importers.folder import run
from diffusers_macdm.data.importers.settings import FolderSettings
from diffusers_macdm.data.importers.tables import film_name


SHAPE = (12, 10)


def film(number: int, full: int = 255) -> np.ndarray:
    """A film that uses the whole range, another one for each number."""
    values = np.random.default_rng([number, full]).integers(0, full + 1, SHAPE)
    values.flat[:2] = 0, full
    return values.astype(np.uint8 if full <= 255 else np.uint16)


def masks(has_lesion: bool) -> tuple[np.ndarray, np.ndarray]:
    anatomy, lesion = np.zeros((2, *SHAPE), dtype=bool)
    anatomy[2:-2, 2:-2] = True
    lesion[4:7, 3:5] = has_lesion
    return anatomy, lesion


def add(src, name, values, has_lesion, suffix="png", folders=("images", "anatomy", "lesion"), names=("{}",) * 3, **options):
    """Write a film and its masks; no lesion mask where there is no lesion."""
    arrays = (values, *(mask.astype(np.uint8) * 255 for mask in masks(has_lesion)))
    for kind, (folder, pattern, array) in enumerate(zip(folders, names, arrays, strict=True)):
        if folder is None or (kind == 2 and not has_lesion):
            continue
        path = src / folder / f"{pattern.format(name)}.{suffix if kind == 0 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, array, **(options if kind == 0 else {}))


@pytest.fixture
def src(tmp_path):
    """24 films of 8 patients, every third one with a lesion."""
    for number in range(24):
        add(tmp_path / "lab", f"p{number // 3:02d}_{number}", film(number), number % 3 == 0)
    return tmp_path / "lab"


def lines(out) -> dict[str, dict]:
    """Name of each film -> its line, with its split."""
    found = {}
    for metadata in sorted(out.glob("*/metadata.jsonl")):
        for row in map(json.loads, metadata.read_text().splitlines()):
            found[row["image_file_name"][len("images/") : -len(".png")]] = row | {"split": metadata.parent.name}
    return found


def pixels(out, row, column) -> np.ndarray:
    return np.asarray(Image.open(out / row["split"] / row[f"{column}_file_name"]))


def settings(src, out, **options) -> FolderSettings:
    return FolderSettings(src=src, out=out, **options)


def import_folder(src, out, **options):
    imported = run(settings(src, out, **options), show_progress=False)
    assert bool(imported.taken) == (imported.refused is None) == out.exists()
    if imported.taken:
        assert inspect_dataset(out).faults == []
    return imported


def test_films_masks_and_labels_are_those_of_the_files(src, tmp_path):
    out = tmp_path / "out"
    imported = import_folder(src, out)
    assert not imported.left_out and sum(imported.taken.values()) == 24
    rows = lines(out)
    for number in range(24):
        row, has_lesion = rows[f"p{number // 3:02d}_{number}"], number % 3 == 0
        assert row["label"] == int(has_lesion)
        np.testing.assert_array_equal(pixels(out, row, "image"), film(number))
        anatomy, lesion = masks(has_lesion)
        np.testing.assert_array_equal(pixels(out, row, "anatomy_mask"), anatomy * 255)
        if has_lesion:
            np.testing.assert_array_equal(pixels(out, row, "lesion_mask"), lesion * 255)
        else:
            assert row["lesion_mask_file_name"] is None
    assert [note.kind for note in imported.notes] == ["no patients"]


def test_no_patient_stands_in_two_splits_and_the_seed_decides(src, tmp_path):
    found = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        import_folder(src, tmp_path / name, patient_pattern="^p[0-9]+", splits=(0.5, 0.25, 0.25), seed=seed)
        rows = lines(tmp_path / name)
        splits = {row["patient_id"]: set() for row in rows.values()}
        for film_of, row in rows.items():
            assert row["patient_id"] == film_of.split("_")[0]
            splits[row["patient_id"]].add(row["split"])
        assert len(splits) == 8 and all(len(of_patient) == 1 for of_patient in splits.values())
        assert Counter(row["split"] for row in rows.values()) == {"train": 12, "validation": 6, "test": 6}
        found[name] = {patient: of_patient.pop() for patient, of_patient in splits.items()}
    assert found["a"] == found["b"] != found["c"]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_stay_sixteen(suffix, tmp_path):
    for number in range(3):
        add(tmp_path / "lab", str(number), film(number, 65535), number == 0, suffix)
    import_folder(tmp_path / "lab", tmp_path / "out", splits=(1, 0, 0))
    for number in range(3):
        values = pixels(tmp_path / "out", lines(tmp_path / "out")[str(number)], "image")
        assert values.dtype == np.uint16
        np.testing.assert_array_equal(values, film(number, 65535))


def test_bits_stretch_all_films_by_the_same_factor(tmp_path):
    for number in range(3):
        add(tmp_path / "lab", str(number), film(number, 16383) // (1 + 2 * (number == 2)), number == 0)
    add(tmp_path / "lab", "bright", film(9, 16384), False)
    imported = import_folder(tmp_path / "lab", tmp_path / "out", splits=(1, 0, 0), bits=14)
    for number in range(3):
        values = pixels(tmp_path / "out", lines(tmp_path / "out")[str(number)], "image")
        stored = (film(number, 16383) // (1 + 2 * (number == 2))).astype(float)
        expected = np.floor(stored * 65535 / 16383 + 0.5)
        np.testing.assert_array_equal(values, expected)
    assert [(fault.file, fault.reason) for fault in imported.left_out] == [
        ("images/bright.png", "has the value 16384, beyond the 14 bits of --bits.")
    ]


def test_films_of_two_depths_need_a_word(tmp_path):
    add(tmp_path / "lab", "a", film(0, 65535), True)
    add(tmp_path / "lab", "b", film(1, 4095), False)
    imported = import_folder(tmp_path / "lab", tmp_path / "out", splits=(1, 0, 0))
    assert re.match(r"images/b.png .*12 bits.* --bits says how many bits", imported.refused)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_gray_films_in_colour_files_are_gray_and_upright(orientation, tmp_path):
    values = film(0)
    src = tmp_path / "lab"
    add(src, "b", film(1), False)
    add(src, "a", np.stack([values] * 3, axis=-1), True)
    if orientation != 1:  # all files of the case turned alike, so that nothing has to be guessed
        anatomy, lesion = masks(True)
        save(src / "anatomy/a.png", anatomy.astype(np.uint8) * 255, orientation)
        save(src / "lesion/a.png", lesion.astype(np.uint8) * 255, orientation)
        turned = {3: lambda a: np.rot90(a, 2), 6: lambda a: np.rot90(a, 1)}[orientation]
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(np.ascontiguousarray(turned(np.stack([values] * 3, axis=-1)))).save(src / "images/a.png", exif=exif)
    import_folder(src, tmp_path / "out", splits=(1, 0, 0))
    np.testing.assert_array_equal(pixels(tmp_path / "out", lines(tmp_path / "out")["a"], "image"), values)


def test_every_fault_is_named_and_the_rest_goes_on(src, tmp_path, capsys):
    images = src / "images"
    good = (images / "p00_1.png").read_bytes()
    (images / "cut.png").write_bytes(good[:-30])
    (images / "text.jpg").write_text("no image")
    (images / "copy.png").write_bytes(good)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)).save(images / "colour.png")
    pages = [Image.fromarray(film(number)) for number in (30, 31)]
    pages[0].save(images / "pages.tif", save_all=True, append_images=pages[1:])
    save(images / "blank.png", np.full(SHAPE, 7, dtype=np.uint8))
    save(images / "large.png", np.pad(film(40), 1))
    save(images / "bare.png", film(41))
    save(images / "leak.png", film(42))
    for name in ("cut", "text", "copy", "colour", "pages", "blank", "large", "leak"):
        save(src / f"anatomy/{name}.png", masks(True)[0].astype(np.uint8) * 255)
    save(src / "lesion/leak.png", np.eye(*SHAPE, dtype=np.uint8) * 255)
    save(src / "lesion/typo.png", masks(True)[1].astype(np.uint8) * 255)
    (images / "notes.txt").write_text("films of May")
    out = tmp_path / "out"
    before = sorted(src.rglob("*"))
    assert cli.main(["import-folder", str(src), str(out)]) == 1
    printed = capsys.readouterr().out
    for file, reason in {
        "images/cut.png": "cannot be decoded",
        "images/text.jpg": "no image of a format that is read",
        "images/copy.png": "has the same content, pixel by pixel, as images/p00_1.png",
        "images/p00_1.png": "has the same content, pixel by pixel, as images/copy.png",
        "images/colour.png": "is in colour",
        "images/pages.tif": "holds several images",
        "images/blank.png": "every pixel has the same value",
        "images/large.png": "anatomy/large.png: 10 x 12 pixels, but its radiograph images/large.png has 12 x 14",
        "images/bare.png": "has no anatomy mask in anatomy",
        "images/leak.png": "lesion/leak.png: 4 of 10 lesion pixels are outside the anatomy mask",
        "lesion/typo.png": "there is no film typo",
    }.items():
        if file in ("images/copy.png", "images/p00_1.png"):  # the first one by name is taken
            continue
        assert f"{file}: left out: " in printed and reason in printed, file
    assert "images/p00_1.png: left out: has the same content, pixel by pixel, as images/copy.png." in printed
    assert "images/notes.txt: note: is not read" in printed
    assert (
        printed.splitlines()[-1]
        == f"taken: 24 films (17 in train, 4 in validation, 3 in test); left out: 10 files; written to {out}"
    )
    assert sorted(src.rglob("*")) == before and inspect_dataset(out).faults == []
    record = json.loads((out / "import.json").read_text())
    assert len(record["left_out"]) == 10 and str(tmp_path) not in (out / "import.json").read_text()
    assert cli.main(["import-folder", str(src), str(out)]) == 1 and "nothing is overwritten" in capsys.readouterr().err
    assert cli.main(["import-folder", str(src), str(tmp_path / "again")]) == 1
    assert lines(tmp_path / "again") == lines(out)


def test_a_lesion_can_widen_the_anatomy(src, tmp_path):
    save(src / "lesion/p00_0.png", np.eye(*SHAPE, dtype=np.uint8) * 255)
    assert not import_folder(src, tmp_path / "out", widen_anatomy=True).left_out
    widened = pixels(tmp_path / "out", lines(tmp_path / "out")["p00_0"], "anatomy_mask")
    np.testing.assert_array_equal(widened != 0, masks(False)[0] | np.eye(*SHAPE, dtype=bool))


def test_masks_may_stand_beside_the_films_and_below_folders(tmp_path):
    names = ("{}", "{}_bone", "{}_lesion")
    for number in range(6):
        add(tmp_path / "lab", f"p{number % 3}/film{number}", film(number), number % 2 == 0, "tif", (".",) * 3, names)
    options = {"films": ".", "anatomy": "{name}_bone", "lesion": "{name}_lesion", "patient_pattern": "^(p[0-9])/"}
    imported = import_folder(tmp_path / "lab", tmp_path / "out", splits=(1, 0, 0), **options)
    assert not imported.left_out and not imported.notes
    rows = lines(tmp_path / "out")
    assert sorted(rows) == [f"p{number % 3}_film{number}" for number in (0, 3, 1, 4, 2, 5)]
    assert {name: row["patient_id"] for name, row in rows.items()} == {name: name[:2] for name in rows}
    assert [rows[f"p{number % 3}_film{number}"]["label"] for number in range(6)] == [1, 0] * 3


def test_a_set_with_one_mask(tmp_path):
    for number in range(4):
        add(tmp_path / "lab", str(number), film(number), number % 2 == 0, folders=("images", None, "lesion"))
        add(tmp_path / "bones", str(number), film(number), False, folders=("images", "anatomy", None))
    import_folder(tmp_path / "lab", tmp_path / "out", splits=(1, 0, 0))
    assert all("anatomy_mask_file_name" not in row for row in lines(tmp_path / "out").values())
    with pytest.raises(ValueError, match="--labels with a column for the label"):
        import_folder(tmp_path / "bones", tmp_path / "bones_out")
    labels = tmp_path / "labels.csv"
    labels.write_text("film,label\n0.png,normal\n1.png,rickets\n2.png,\n3.png,normal\n")
    import_folder(tmp_path / "bones", tmp_path / "bones_out", labels=labels, splits=(1, 0, 0))
    rows = lines(tmp_path / "bones_out")
    assert [rows[str(number)]["label"] for number in range(4)] == ["normal", "rickets", None, "normal"]


def test_a_table_says_label_patient_site_and_split(src, tmp_path):
    table = ["Datei;Befund;Pat;frontal;seitlich;Teil"]
    for number in range(23):  # the last film is in no line
        split = ("train", "train", "validation", "test")[number // 6]
        table.append(f"images\\p{number // 3:02d}_{number}.PNG;{int(number % 3 == 0)};K{number // 3};1;{number % 2};{split}")
    table.append("nowhere;0;K9;1;0;train")
    labels = tmp_path / "Liste.csv"
    labels.write_bytes("\r\n".join(table).encode("utf-8-sig"))
    options = {"labels": labels, "label_column": "Befund", "patient_column": "Pat", "site_column": ("frontal", "seitlich")}
    with pytest.raises(ValueError, match="--site-column x: .* has no such column; it has Datei, Befund"):
        import_folder(src, tmp_path / "out", **options | {"site_column": ("x",)})
    labels.write_bytes(labels.read_bytes().replace(b"images\\", b""))
    imported = import_folder(src, tmp_path / "out", split_column="Teil", **options)
    assert [(fault.file, fault.reason) for fault in imported.left_out] == [
        ("images/p07_23.png", "no line of Liste.csv names it.")
    ]
    assert [note.reason for note in imported.notes] == ["1 line names no film: 'nowhere'."]
    rows = lines(tmp_path / "out")
    assert imported.taken == {"train": 12, "validation": 6, "test": 5}
    row = rows["p01_3"]
    assert (row["label"], row["patient_id"], row["site"], row["split"]) == (1, "K1", "frontal+seitlich", "train")
    assert rows["p01_4"]["site"] == "frontal"


@pytest.mark.parametrize(
    "table, sentence",
    [
        ("", "is empty"),
        ("film,label\np00_0,1,2\n", "line 2 has 3 cells and the header 2"),
        ("film,label\np00_0,1\np00_0.png,0\n", "line 3 names 'p00_0' again, which line 2 has"),
        ("film,label,label\n", "has two columns called 'label'"),
        ("film,label\np00_0,sick\np00_1,well\n", "the class without a lesion must be called 'normal'"),
        ("film,split,patient_id\np00_0,train,x\np00_1,test,x\n", "A patient may be in one split only"),
    ],
)
def test_faults_of_a_table_are_one_sentence(table, sentence, src, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text(table)
    split = {"split_column": "split"} if "split" in table else {}
    try:
        said = import_folder(src, tmp_path / "out", labels=labels, **split).refused
    except ValueError as error:
        said = str(error)
    assert sentence in said
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_a_label_that_contradicts_the_mask_is_left_out(src, tmp_path):
    labels = tmp_path / "labels.csv"
    rows = [f"p{number // 3:02d}_{number},{int(number % 3 == 0)}" for number in range(24)]
    rows[0], rows[1], rows[2] = "p00_0,0", "p00_1,1", "p00_2,0.5"
    labels.write_text("\n".join(["film,label", *rows]))
    imported = import_folder(src, tmp_path / "out", labels=labels)
    assert {fault.file: fault.reason for fault in imported.left_out} == {
        "images/p00_0.png": "lesion/p00_0.png: label 0 means no lesion, but the lesion mask has 6 pixels.",
        "images/p00_1.png": "label 1 means a lesion, but there is no lesion mask.",
        "images/p00_2.png": "labels.csv:4 gives it the label '0.5'; 0 (normal), 1, 2, ..., a name, or nothing is allowed.",
    }


def test_what_is_asked_to_be_left_out_is_no_fault(src, tmp_path, capsys):
    words = ["import-folder", str(src), str(tmp_path / "out"), "--unannotated", "leave-out", "--splits", "1", "0", "0"]
    save(src / "lesion/p00_1.png", np.zeros(SHAPE, dtype=np.uint8))  # annotated, and normal
    assert cli.main(words) == 0
    assert "taken: 9 films (9 in train); left out: no files, and 15 as asked" in capsys.readouterr().out
    labels = tmp_path / "labels.csv"
    labels.write_text("film,label\n" + "".join(f"p{n // 3:02d}_{n},{int(n % 3 == 0)}\n" for n in range(24)))
    words[2] += "2"
    assert cli.main([*words, "--labels", str(labels)]) == 0
    assert "taken: 24 films (24 in train); left out: no files; written" in capsys.readouterr().out


def test_where_nothing_can_be_taken_nothing_is_written(tmp_path, capsys):
    (tmp_path / "lab/images").mkdir(parents=True)
    (tmp_path / "lab/lesion").mkdir()
    (tmp_path / "lab/images/a.png").write_bytes(b"x")
    assert cli.main(["import-folder", str(tmp_path / "lab"), str(tmp_path / "out")]) == 1
    assert (
        f"{tmp_path / 'out'} was not written: no film is left.\ntaken: no film; left out: 1 file; nothing was written"
        in capsys.readouterr().out
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lab"]


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"films": "films"}, "--films films: .* has no folder films"),
        ({"lesion": "outlines"}, "--lesion outlines: .* has no folder outlines"),
        ({"lesion": "{name}/{name}"}, "stands once, in the last part of the path"),
    ],
)
def test_wrong_places_are_one_sentence(options, sentence, src, tmp_path):
    with pytest.raises((ValueError, OSError), match=sentence):
        import_folder(src, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_too_few_patients_for_the_splits(src, tmp_path):
    imported = import_folder(src, tmp_path / "out", splits=(0.9, 0.09, 0.01), patient_pattern="p0")
    assert imported.refused.startswith("24 films of 1 patient are too few for --splits 0.9 0.09 0.01")


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--splits", "0.5", "0.1", "0.1"], "--splits 0.5 0.1 0.1 is not allowed: three shares that add up to 1 are needed"),
        (["--patient-pattern", "("], "--patient-pattern ( is no regular expression"),
        (["--label-column", "x"], "--label-column needs --labels"),
        (["--bits", "8"], "--bits 8 is not allowed: 9 to 16 are."),
    ],
)
def test_wrong_usage_is_one_line(words, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["import-folder", "a", "b", *words])
    assert end.value.code == 2 and sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, name", [("a.PNG", "a"), (" a.b.tif ", "a.b"), ("x\\a.jpeg", "x/a"), ("1.2.840", "1.2.840"), ("a.dcm", "a")]
)
def test_the_name_of_a_film(text, name):
    assert film_name(text) == name
