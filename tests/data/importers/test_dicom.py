"""`macdm import-dicom`: gray values against another implementation of the standard, and who the patient was in no byte."""

import json

import numpy as np
import pytest
from data_folders import save
from PIL import Image

from diffusers_macdm.commands import main as cli
from diffusers_macdm.data.check import inspect_dataset
from diffusers_macdm.data.decoding import Unreadable
from diffusers_macdm.data.importers.dicom import gray_values, windowed


pydicom = pytest.importorskip("pydicom")
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.pixels import apply_windowing  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid  # noqa: E402


SHAPE = (24, 20)


def dicom(stored, bits=12, photometric="MONOCHROME2", **attributes):
    """A file of one film with these stored values."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=[repr(stored.tolist())])
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "DX", photometric, 1
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (8 if bits == 8 else 16), bits, bits - 1
    dataset.PixelRepresentation = int(stored.min() < 0)
    kind = np.dtype({8: "u1"}.get(dataset.BitsAllocated, "<u2") if not dataset.PixelRepresentation else "<i2")
    dataset.PixelData = stored.astype(kind).tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def values_of(bits, signed):
    full = 2**bits
    stored = np.random.default_rng(bits).integers(0, full, SHAPE)
    stored.flat[:2] = 0, full - 1
    return stored - full // 2 if signed else stored


def test_windows_are_those_of_the_standard():
    """The pseudo-code of PS3.3 C.11.2.1.2.1, value by value, and the two equations below it."""
    values = np.arange(-50, 300, dtype=float)
    for centre, width in ((100, 120), (40.5, 1), (0, 2), (128, 256)):
        expected = []
        for x in values:
            if x <= centre - 0.5 - (width - 1) / 2:
                expected.append(0.0)
            elif x > centre - 0.5 + (width - 1) / 2:
                expected.append(1.0)
            else:
                expected.append((x - (centre - 0.5)) / (width - 1) + 0.5)
        np.testing.assert_allclose(windowed(values, centre, width), expected, atol=1e-12)
    np.testing.assert_allclose(windowed(np.array([40.0, 70, 100, 160]), 100, 120, "LINEAR_EXACT"), [0, 0.25, 0.5, 1])
    sigmoid = windowed(np.array([100.0, 130, 1e9]), 100, 120, "SIGMOID")
    np.testing.assert_allclose(sigmoid, [0.5, 1 / (1 + np.exp(-1)), 1])


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("bits, signed", [(8, False), (10, False), (12, True), (14, False), (16, False), (16, True)])
def test_gray_values_agree_with_pydicom(photometric, function, bits, signed):
    stored = values_of(bits, signed)
    window = {"WindowCenter": [0.4 * 2**bits, 5], "WindowWidth": [0.3 * 2**bits, 7], "VOILUTFunction": function}
    dataset = dicom(stored, bits, photometric, RescaleSlope=2, RescaleIntercept=-100, **window)
    shown = apply_windowing(stored * 2.0 - 100, dataset)
    ends = 2.0 * np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1]) - 100
    expected = (shown - ends[0]) / (ends[1] - ends[0])
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    np.testing.assert_allclose(gray_values(dataset), expected, atol=1e-6)


@pytest.mark.parametrize("bits, signed", [(8, False), (12, True), (14, False), (16, True)])
def test_without_a_window_the_range_of_the_stored_values_is_shown(bits, signed):
    stored = values_of(bits, signed)
    expected = (stored - stored.min()) / (2**bits - 1)
    np.testing.assert_allclose(gray_values(dicom(stored, bits)), expected, atol=1e-12)
    with_window = dicom(stored, bits, WindowCenter=10, WindowWidth=5)
    np.testing.assert_allclose(gray_values(with_window, "none"), expected, atol=1e-12)
    falling = dicom(stored, bits, RescaleSlope=-1, RescaleIntercept=7)
    np.testing.assert_allclose(gray_values(falling), 1 - expected, atol=1e-12)


def test_lookup_tables():
    stored = values_of(8, False)
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [200, 30, 12], [20 * entry for entry in range(200)]
    dataset = dicom(stored, 8, VOILUTSequence=pydicom.Sequence([table]))
    expected = 20 * np.clip(stored - 30, 0, 199) / 4095
    np.testing.assert_allclose(gray_values(dataset), expected, atol=1e-12)
    modality = pydicom.Dataset()
    modality.LUTDescriptor, modality.LUTData, modality.ModalityLUTType = (
        [256, 0, 16],
        [257 * (255 - e) for e in range(256)],
        "US",
    )
    np.testing.assert_allclose(
        gray_values(dicom(stored, 8, ModalityLUTSequence=pydicom.Sequence([modality]))), 1 - stored / 255
    )


def test_pydicoms_own_files():
    """Rescaled values against the bytes of the file; RLE and JPEG 2000 against the same film without compression."""
    ct = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    stored = np.frombuffer(ct.PixelData, dtype="<i2").reshape(ct.Rows, ct.Columns)
    np.testing.assert_allclose(gray_values(ct), (stored.astype(float) + 32768) / 65535, atol=1e-12)  # it has no window
    plain = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    stored = np.frombuffer(plain.PixelData, dtype="<i2").reshape(plain.Rows, plain.Columns).astype(float)
    expected = np.clip((stored - 599.5) / (float(plain.WindowWidth) - 1) + 0.5, 0, 1)
    for name in ("MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"):
        np.testing.assert_allclose(gray_values(pydicom.dcmread(get_testdata_file(name))), expected, atol=1e-12)
    overlay = pydicom.dcmread(get_testdata_file("examples_overlay.dcm"))  # two windows: the first one is taken
    centre, width = map(float, (overlay.WindowCenter[0], overlay.WindowWidth[0]))
    np.testing.assert_allclose(gray_values(overlay), windowed(overlay.pixel_array * 1.0, centre, width), atol=1e-12)


@pytest.mark.parametrize(
    "attributes, sentence",
    [
        ({"WindowCenter": 5, "WindowWidth": 0}, "window of width 0"),
        ({"WindowCenter": 5}, "window of width None"),
        ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "has the window function 'CUBIC'"),
        ({"PixelData": b"\0" * 10}, "cannot be decoded, stored as Explicit VR Little Endian"),
    ],
)
def test_what_cannot_be_shown_is_refused(attributes, sentence):
    with pytest.raises(Unreadable, match=sentence):
        gray_values(dicom(values_of(12, False), **attributes))


NAME, NUMBER, DATE, ACCESSION = "PLANTED^JANE", "MRN4711", "19980431", "ACC99"


@pytest.fixture
def archive(tmp_path):
    """16 films of 8 patients, every second one with a lesion, with masks beside them and the patient everywhere."""
    src = tmp_path / "archive"
    src.mkdir()
    lesion = np.zeros(SHAPE, dtype=np.uint8)
    lesion[6:9, 6:9] = 255
    for number in range(16):
        stored = np.random.default_rng(number).integers(0, 4096, SHAPE)
        dataset = dicom(stored, 12, ("MONOCHROME1", "MONOCHROME2")[number % 2])
        dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate = f"{NUMBER}{number // 2}", NAME, DATE
        dataset.StudyDate, dataset.AccessionNumber, dataset.ImagerPixelSpacing = DATE, ACCESSION, [0.2, 0.1]
        suffix = (".dcm", "")[number % 2]
        dataset.save_as(src / f"PLANTED_JANE_{number}{suffix}", enforce_file_format=True)
        if number % 4 < 2:
            save(src / f"PLANTED_JANE_{number}_lesion.png", lesion)
    return src


def rows_of(out):
    paths = sorted(out.glob("*/metadata.jsonl"))
    return [json.loads(line) | {"split": path.parent.name} for path in paths for line in path.read_text().splitlines()]


def test_films_come_in_and_the_patient_stays_out(archive, tmp_path, capsys):
    out, key = tmp_path / "out", tmp_path / "key"
    assert cli.main(["import-dicom", str(archive), str(out), "--key", str(key)]) == 0
    printed = capsys.readouterr().out
    assert f"{key}: note: is a new key" in printed and "divided without regard to labels" in printed
    assert key.stat().st_mode & 0o777 == 0o600
    rows = rows_of(out)
    assert inspect_dataset(out).faults == [] and len(rows) == 16 and sum(row["label"] for row in rows) == 8
    splits = {}
    for row in rows:
        splits.setdefault(row["patient_id"], set()).add(row["split"])
    assert len(splits) == 8 and all(len(of_patient) == 1 for of_patient in splits.values())
    found = []
    for row in rows:
        assert row["pixel_spacing_mm"] == [0.2, 0.1]
        found.append(np.asarray(Image.open(out / row["split"] / row["image_file_name"])))
    for number in range(16):
        stored = np.random.default_rng(number).integers(0, 4096, SHAPE)
        shown = stored if number % 2 else 4095 - stored
        expected = np.rint(shown / 4095 * 65535)
        assert any(np.array_equal(expected, values) for values in found), number
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in archive.iterdir() if path.suffix != ".png"]
    secrets = [NAME, "PLANTED", "JANE", NUMBER, DATE, ACCESSION, key.read_text().strip(), str(tmp_path), *uids]
    for path in out.rglob("*"):
        content = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
        assert not [secret for secret in secrets if secret.encode() in content], path


def test_the_same_key_gives_the_same_pseudonyms_and_another_one_others(archive, tmp_path):
    found = []
    for name, key in (("a", "key"), ("b", "key"), ("c", "other")):
        assert cli.main(["import-dicom", str(archive), str(tmp_path / name), "--key", str(tmp_path / key)]) == 0
        found.append({row["patient_id"] for row in rows_of(tmp_path / name)})
    assert found[0] == found[1] and not found[0] & found[2]


def test_every_fault_is_named_and_the_rest_goes_on(archive, tmp_path, capsys):
    stored = values_of(12, False)
    for name, options in {
        "frames": {"NumberOfFrames": 2, "PixelData": np.zeros((2, *SHAPE), dtype="<u2").tobytes()},
        "burned": {"BurnedInAnnotation": "YES"},
        "scan": {"Modality": "CT"},
        "colour": {"PhotometricInterpretation": "PALETTE COLOR"},
        "deep": {"BitsStored": 32, "BitsAllocated": 32, "HighBit": 31},
        "short": {"PixelData": b"\0" * 10},
    }.items():
        dicom(stored, **options).save_as(archive / f"{name}.dcm", enforce_file_format=True)
    lossless = get_testdata_file("JPEGLSNearLossless_16.dcm")
    dataset = pydicom.dcmread(lossless)
    dataset.Modality = "CR"
    dataset.save_as(archive / "packed.dcm")
    (archive / "text.dcm").write_text("no DICOM")
    (archive / "notes.txt").write_text("seen in May")
    save(archive / "typo_lesion.png", np.zeros(SHAPE, dtype=np.uint8))
    out = tmp_path / "out"
    assert cli.main(["import-dicom", str(archive), str(out), "--key", str(tmp_path / "key")]) == 1
    printed = capsys.readouterr().out
    for sentence in (
        "frames.dcm: left out: holds 2 frames; one is allowed",
        "burned.dcm: left out: has text burned into it",
        "scan.dcm: left out: has the modality CT; --modality takes CR, DX, RF.",
        "colour.dcm: left out: is PALETTE COLOR",
        "deep.dcm: left out: stores 32 bits",
        "short.dcm: left out: cannot be decoded, stored as Explicit VR Little Endian",
        "packed.dcm: left out: cannot be decoded, stored as JPEG-LS Lossy",
        "text.dcm: left out: is no DICOM file",
        "typo_lesion.png: left out: there is no film whose mask it is.",
        "notes.txt: note: is not read",
        "taken: 16 films",
        "left out: 9 files",
    ):
        assert sentence in printed, sentence
    record = json.loads((out / "import.json").read_text())
    assert len(record["left_out"]) == 9 and all(set(fault) == {"kind"} for fault in record["left_out"])


def test_patients_of_a_table_are_hidden_too(archive, tmp_path):
    labels = tmp_path / "labels.csv"
    lines = [f"PLANTED_JANE_{number},{int(number % 4 < 2)},{NUMBER}-{number // 4}" for number in range(16)]
    labels.write_text("\n".join(["film,label,patient_id", *lines]))
    words = ["import-dicom", str(archive), str(tmp_path / "out"), "--key", str(tmp_path / "key"), "--labels", str(labels)]
    assert cli.main([*words, "--splits", "0.5", "0.25", "0.25"]) == 0
    patients = {row["patient_id"] for row in rows_of(tmp_path / "out")}
    assert len(patients) == 4 and not any(NUMBER in patient for patient in patients)


@pytest.mark.parametrize("key", ["out/key", "text"])
def test_a_key_that_is_none_is_refused(key, archive, tmp_path, capsys):
    (tmp_path / "text").write_text("0000")
    assert cli.main(["import-dicom", str(archive), str(tmp_path / "out"), "--key", str(tmp_path / key)]) == 1
    assert ("is inside of" if key == "out/key" else "holds no key") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
