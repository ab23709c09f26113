import json
import sys

import numpy as np
import pytest
import torch
from data_folders import usual
from datasets import Dataset, DatasetDict
from image_files import joint_sample_of
from PIL import Image
from scipy import ndimage

from diffusers_macdm.data.augmentation import AUGMENTATION_DIM, PairAugmentation
from diffusers_macdm.data.dataset import PairDataset
from diffusers_macdm.data.hub_pairs import pairs_of
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.data.sampler import StepBatchSampler
from diffusers_macdm.macdm.image_processor import mask_array, radiograph_array, resize_case, resize_mask, resize_radiograph


def gray16(values):
    return Image.fromarray(np.asarray(values, dtype=np.uint16))


def saved_and_opened(image, path):
    image.save(path)
    return Image.open(path)


# ---- decoding


def test_radiograph_full_scale_is_that_of_the_format(tmp_path):
    values = np.array([[0, 51], [128, 255]], dtype=np.uint8)
    eight = saved_and_opened(Image.fromarray(values), tmp_path / "8.png")
    sixteen = saved_and_opened(gray16(values.astype(np.uint16) * 257), tmp_path / "16.png")
    assert (eight.mode, sixteen.mode) == ("L", "I;16")
    for image in (eight, sixteen):
        array = radiograph_array(image)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, values / 255, atol=1e-7)


def test_radiograph_other_grayscale_modes():
    values = np.array([[0, 1000], [40000, 65535]])
    for image in (
        Image.frombytes("I;16B", (2, 2), values.astype(">u2").tobytes()),
        Image.fromarray(values.astype(np.int32)),
    ):
        np.testing.assert_allclose(radiograph_array(image), values / 65535, atol=1e-7)
    np.testing.assert_array_equal(radiograph_array(Image.fromarray(values > 1000)), [[0, 0], [1, 1]])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "F"])
def test_other_modes_are_refused(mode):
    for decode in (radiograph_array, mask_array):
        with pytest.raises(ValueError, match=rf"mode '{mode}'.*grayscale.*import"):
            decode(Image.new(mode, (2, 2)))


def test_radiograph_beyond_16_bits_is_refused():
    with pytest.raises(ValueError, match="from 0 to 65536"):
        radiograph_array(Image.fromarray(np.array([[0, 65536]], dtype=np.int32)))


def test_mask_is_zero_or_non_zero():
    values = np.array([[0, 7], [7, 0]], dtype=np.uint8)
    label_numbers = np.array([[0, 1], [63, 0]], dtype=np.uint8)
    for image in (Image.fromarray(values), gray16(values), Image.fromarray(values > 0), Image.fromarray(label_numbers)):
        array = mask_array(image)
        assert array.dtype == bool
        np.testing.assert_array_equal(array, values > 0)


def test_shades_of_a_mask_are_cut_at_half():
    """A JPEG's ringing and smoothed edges are not the mask: "not 0" would make it grow by its seam."""
    shades = np.array([[0, 3, 127], [128, 250, 255]], dtype=np.uint8)
    for image in (Image.fromarray(shades), gray16(shades), gray16(shades * np.uint16(257))):
        np.testing.assert_array_equal(mask_array(image), shades >= 128)
    np.testing.assert_array_equal(mask_array(Image.fromarray(np.array([[7, 250]], np.uint8))), [[False, True]])


@pytest.mark.parametrize("values", [[0, 50, 100], [1, 2], [3, 4, 5], [0, 64, 65]])
def test_values_of_which_nobody_can_tell_where_the_mask_ends(values):
    with pytest.raises(ValueError, match=f"mask has values from {min(values)} to {max(values)}"):
        mask_array(Image.fromarray(np.array([values], dtype=np.uint8)))


# ---- resizing


def test_resize_radiograph_keeps_what_has_the_size():
    array = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    np.testing.assert_array_equal(resize_radiograph(array, 32), array)


def test_resize_radiograph_pads_to_a_centred_square():
    resized = resize_radiograph(np.ones((10, 40), dtype=np.float32), 40)
    np.testing.assert_array_equal(resized.sum(axis=1) == 40, (np.arange(40) >= 15) & (np.arange(40) < 25))
    tall = resize_radiograph(np.ones((8, 5), dtype=np.float32), 8)
    np.testing.assert_array_equal(tall[0], [0, 1, 1, 1, 1, 1, 0, 0])
    assert resize_radiograph(np.ones((100, 50), dtype=np.float32), 20)[10, 10] == pytest.approx(1)


def test_resize_radiograph_does_not_alias():
    checkerboard = (np.indices((512, 512)).sum(axis=0) % 2).astype(np.float32)
    np.testing.assert_allclose(resize_radiograph(checkerboard, 64)[2:-2, 2:-2], 0.5, atol=0.01)
    # Stripes just finer than the new grid can show: decimation turns them into broad false ones.
    stripes = np.tile(0.5 + 0.5 * np.sin(np.arange(512) * 2 * np.pi / 8.5), (512, 1)).astype(np.float32)
    assert stripes[::8, ::8].std() > 0.3
    assert resize_radiograph(stripes, 64)[:, 2:-2].std() < 0.12


@pytest.mark.parametrize("source, size", [(512, 64), (300, 64), (257, 128), (48, 64)])
def test_resize_radiograph_keeps_range_and_mean(source, size):
    array = ndimage.gaussian_filter(np.random.default_rng(source).random((source, source)), 3).astype(np.float32)
    array = (array - array.min()) / (array.max() - array.min())
    resized = resize_radiograph(array, size)
    assert resized.shape == (size, size) and resized.dtype == np.float32
    assert 0 <= resized.min() and resized.max() <= 1
    assert resized.mean() == pytest.approx(array.mean(), abs=2e-3)


def test_resize_radiograph_is_a_smooth_function_of_position():
    """A ramp stays the ramp at the centres of the new pixels: no shift by half a pixel."""
    ramp = np.tile((np.arange(128, dtype=np.float32) + 0.5) / 128, (128, 1))
    expected = (np.arange(32) + 0.5) / 32
    np.testing.assert_allclose(resize_radiograph(ramp, 32)[16, 2:-2], expected[2:-2], atol=1e-5)


@pytest.mark.parametrize("source, size", [(512, 64), (300, 64), (256, 96), (64, 256)])
def test_resize_mask_preserves_the_area(source, size):
    y, x = (np.indices((source, source)) + 0.5) / source
    disc = (x - 0.45) ** 2 + (y - 0.55) ** 2 < 0.3**2
    for keep_small in (True, False):
        resized = resize_mask(disc, size, keep_small)
        assert resized.dtype == bool and resized.shape == (size, size)
        assert resized.mean() == pytest.approx(disc.mean(), rel=0.02)


def test_resize_mask_equals_block_average_threshold():
    mask = ndimage.gaussian_filter(np.random.default_rng(1).random((256, 256)), 12) > 0.5
    blocks = mask.reshape(64, 4, 64, 4).mean(axis=(1, 3)) >= 0.5
    np.testing.assert_array_equal(resize_mask(mask, 64, keep_small=False), blocks)


@pytest.mark.parametrize("top", range(0, 16, 3))
@pytest.mark.parametrize("left", [8, 15])
def test_lesion_of_four_pixels_survives(top, left):
    mask = np.zeros((512, 512), dtype=bool)
    mask[200 + top : 202 + top, 300 + left : 302 + left] = True
    resized = resize_mask(mask, 64)
    assert 1 <= resized.sum() <= 4
    centre = np.argwhere(mask).mean(axis=0) + 0.5
    assert np.abs((np.argwhere(resized).mean(axis=0) + 0.5) * 8 - centre).max() <= 8
    assert not resize_mask(np.zeros_like(mask), 64).any()


def test_each_small_component_survives_beside_a_large_one():
    mask = np.zeros((1024, 1024), dtype=bool)
    mask[100:400, 100:400] = True
    spots = [(700, 200), (700, 900), (40, 800)]
    for y, x in spots:
        mask[y : y + 3, x : x + 2] = True
    _, count = ndimage.label(resize_mask(mask, 64))
    assert count == 4
    _, count = ndimage.label(resize_mask(mask, 64, keep_small=False))
    assert count == 1


def test_anatomy_does_not_become_empty():
    mask = np.zeros((512, 512), dtype=bool)
    mask[:, 255:257] = True  # a line that covers a quarter of a new pixel at most
    mask[10, 10] = True
    resized = resize_mask(mask, 64, keep_small=False)
    assert resized[:, 31:33].any() and not resized[:, :31].any()


@pytest.mark.parametrize("seed", range(8))
def test_lesion_stays_inside_the_anatomy(seed):
    rng = np.random.default_rng(seed)
    anatomy = ndimage.gaussian_filter(rng.random((400, 300)), 9) > 0.5
    lesion = anatomy & ~ndimage.binary_erosion(anatomy, iterations=2) & (rng.random(anatomy.shape) > 0.997)
    assert lesion.any()
    _, small_anatomy, small_lesion = resize_case(rng.random(anatomy.shape), anatomy, lesion, 64)
    assert small_lesion.any() and not (small_lesion & ~small_anatomy).any()


def test_lesion_outside_the_anatomy_is_not_repaired():
    anatomy, lesion = np.zeros((2, 128, 128), dtype=bool)
    anatomy[:40], lesion[80:100, 80:100] = True, True
    _, small_anatomy, small_lesion = resize_case(np.zeros((128, 128)), anatomy, lesion, 32)
    assert not (small_anatomy & small_lesion).any()


def test_joint_sample_of_values():
    radiograph = Image.fromarray(np.array([[0, 255], [51, 102]], dtype=np.uint8))
    anatomy = Image.fromarray(np.array([[0, 5], [1, 0]], dtype=np.uint8))
    lesion = Image.fromarray(np.array([[False, True], [False, False]]))
    sample = joint_sample_of(radiograph, anatomy, lesion, 2)
    assert sample.dtype == torch.float32
    expected = [[[-1, 1], [-0.6, -0.2]], [[-1, 1], [1, -1]], [[-1, 1], [-1, -1]]]
    torch.testing.assert_close(sample, torch.tensor(expected, dtype=torch.float32))


def test_a_mask_of_another_size_is_refused():
    square, wide = Image.new("L", (8, 8)), Image.new("L", (9, 8))
    images = {"image": square, "anatomy_mask": square, "lesion_mask": wide}
    pairs = pairs_of(DatasetDict(train=Dataset.from_list([{**images, "label": 0}])), "train", "owner/name")
    with pytest.raises(ValueError, match="train-000000: .*lesion_mask: 9 x 8 pixels, but its radiograph .* has 8 x 8"):
        PairDataset(pairs, 8)[0]


# ---- the data set


def write_set(root, labels_by_split, sixteen_bit=False, size=24, **columns):
    """A tiny set in the layout; case `i` is the same whatever the split."""
    for split, labels in labels_by_split.items():
        for kind in ("images", "anatomy", "lesion"):
            (root / split / kind).mkdir(parents=True)
        rows = []
        for number, label in enumerate(labels):
            name = f"{split}_{number:02d}.png"
            values = np.random.default_rng(number).integers(0, 256, (size, size))
            lesion = np.zeros((size, size), dtype=bool)
            lesion[8:12, 8 + number % 4 : 12] = bool(label)
            image = gray16(values * 257) if sixteen_bit else Image.fromarray(values.astype(np.uint8))
            image.save(root / split / "images" / name)
            Image.fromarray(np.indices((size, size))[0] >= 4).save(root / split / "anatomy" / name)
            Image.fromarray(lesion).save(root / split / "lesion" / name)
            row = {f"{column}_file_name": f"{kind}/{name}" for column, kind in zip(COLUMNS, KINDS, strict=True)}
            rows.append({**row, "label": label, **{key: value[number] for key, value in columns.items()}})
        (root / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


COLUMNS, KINDS = ("image", "anatomy_mask", "lesion_mask"), ("images", "anatomy", "lesion")


def test_pairs_to_joint_samples(tmp_path):
    root = write_set(tmp_path / "set", {"train": [0, 1, 1]}, patient_id=["p1", "p2", "p2"])
    data = PairDataset(load_pairs(root), 24)
    assert (len(data), data.labels, data.patient_ids) == (3, [0, 1, 1], ["p1", "p2", "p2"])
    assert data.names == ["train_00", "train_01", "train_02"]
    for index in range(3):
        files = [Image.open(root / "train" / kind / f"train_{index:02d}.png") for kind in KINDS]
        for _ in range(2):  # the second time from memory
            item = data[index]
            torch.testing.assert_close(item["joint_sample"], joint_sample_of(*files, 24), rtol=0, atol=0)
            assert (item["class_label"], item["index"]) == (data.labels[index], index)
            assert item["augmentation_labels"].tolist() == [0] * AUGMENTATION_DIM


def test_16_bit_survives_the_loader(tmp_path):
    eight = PairDataset(load_pairs(write_set(tmp_path / "8", {"train": [1]})), 24)
    sixteen = PairDataset(load_pairs(write_set(tmp_path / "16", {"train": [1]}, sixteen_bit=True)), 24)
    assert sixteen.pairs.decode(0).depth == 16
    torch.testing.assert_close(sixteen[0]["joint_sample"], eight[0]["joint_sample"])


def test_augmentation_needs_a_seed_and_leaves_the_case_alone(tmp_path):
    data = PairDataset(load_pairs(write_set(tmp_path / "set", {"train": [1]})), 24, PairAugmentation(probability=1))
    plain, augmented, again = data[0], data[0, 5], data[0, 5]
    assert plain["augmentation_labels"].tolist() == [0] * AUGMENTATION_DIM
    assert augmented["augmentation_labels"].abs().sum() > 0
    torch.testing.assert_close(augmented, again, rtol=0, atol=0)
    expected, labels = data.augmentation(plain["joint_sample"], 5)
    torch.testing.assert_close(augmented["joint_sample"], expected, rtol=0, atol=0)
    torch.testing.assert_close(augmented["augmentation_labels"], labels, rtol=0, atol=0)
    torch.testing.assert_close(data[0], plain, rtol=0, atol=0)


def test_unlabeled_images_get_the_null_label(tmp_path):
    pairs = load_pairs(write_set(tmp_path / "set", {"train": [0, None, 1]}))
    assert PairDataset(pairs, 24, null_label=2).labels == [0, 2, 1]
    with pytest.raises(ValueError, match="train_01: the image has no label"):
        PairDataset(pairs, 24)


@pytest.mark.parametrize("label", [-1, 0.5, "fracture"])
def test_labels_that_are_no_class_are_refused(tmp_path, label):
    with pytest.raises(ValueError, match=f"train/metadata.jsonl.*label.*{label!r}"):
        load_pairs(write_set(tmp_path / "set", {"train": [label]}))


def test_faulty_case_is_named(tmp_path):
    root = write_set(tmp_path / "set", {"train": [0, 1]})
    Image.new("RGB", (24, 24)).save(root / "train/images/train_01.png")
    data = PairDataset(load_pairs(root), 24)
    data[0]
    with pytest.raises(ValueError, match="train_01: train/images/train_01.png: The radiograph has PIL mode 'RGB'"):
        data[1]


def test_data_loader_with_the_sampler(tmp_path):
    data = PairDataset(load_pairs(write_set(tmp_path / "set", {"train": [0, 0, 1]})), 16, PairAugmentation())
    loader = torch.utils.data.DataLoader(data, batch_sampler=StepBatchSampler(data.labels, 4, num_steps=2))
    batches = list(loader)
    assert len(loader) == len(batches) == 2
    assert batches[0]["joint_sample"].shape == (4, 3, 16, 16)
    assert batches[0]["augmentation_labels"].shape == (4, AUGMENTATION_DIM)
    assert sorted(batches[0]["class_label"].tolist()) == [0, 0, 1, 1]


def test_names_fall_back_where_none_are_kept(tmp_path):
    import datasets

    root = write_set(tmp_path / "set", {"train": [0, 1]})
    images = Image.open(root / "train/images/train_00.png"), Image.open(root / "train/anatomy/train_00.png")
    nameless = datasets.Dataset.from_dict(
        {**{column: [images[column != "image"].copy()] * 2 for column in COLUMNS}, "label": [0, 1]},
        features=datasets.Features({c: datasets.Image() for c in COLUMNS} | {"label": datasets.Value("int64")}),
    )
    from_hub = pairs_of(datasets.DatasetDict(validation=nameless), "validation", "owner/name")
    assert from_hub.names == ["validation-000000", "validation-000001"]
    pairs = load_pairs(root)
    assert len(set(pairs.select([0, 1, 0, 1]).names)) == 4
    assert pairs.select([1]).names == ["train_01"]


def test_splits_of_a_folder(tmp_path):
    root = write_set(tmp_path / "set", {"train": [0, 1], "validation": [1]})
    assert load_pairs(root, "validation")["label"] == [1]
    with pytest.raises(ValueError, match="no split 'test'; there is 'train', 'validation'"):
        load_pairs(root, "test")


@pytest.mark.parametrize("name", ["missing", "/nowhere/at/all", "a/b/c"])
def test_missing_folder(name):
    with pytest.raises(FileNotFoundError, match=f"{name}: no such folder"):
        load_pairs(name)


def test_unreachable_hub_set():
    with pytest.raises(ValueError, match="nobody/nothing: cannot be read as a Hub data set"):
        load_pairs("hf://datasets/nobody/nothing")


def test_a_mistyped_folder_is_not_asked_for_at_the_hub(monkeypatch):
    """Like all that does not name the Hub: `datasets`, which would look it up, is not even imported."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FileNotFoundError, match="nobody/nothing: no such folder. .* hf://datasets/nobody/nothing"):
        load_pairs("nobody/nothing")


def test_folder_without_images(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as a data folder.*macdm check"):
        load_pairs(tmp_path)


def test_empty_metadata(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.jsonl").touch()
    with pytest.raises(ValueError, match="train/metadata.jsonl: is empty: one line for each case is needed"):
        load_pairs(tmp_path)


def test_missing_columns(tmp_path):
    root = write_set(tmp_path / "set", {"train": [0, 1]})
    metadata = root / "train/metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("lesion_mask_file_name", "lesion_file_name"))
    with pytest.raises(ValueError, match="train/metadata.jsonl: required column 'lesion_mask_file_name' is missing"):
        load_pairs(root)


# ---- the order of the cases


LABELS = [0] * 17 + [1] * 5 + [2] * 3


def test_resumed_stream_is_the_uninterrupted_one():
    whole = list(StepBatchSampler(LABELS, 7, num_steps=40, seed=3))
    for start in (0, 1, 13, 40):
        assert list(StepBatchSampler(LABELS, 7, num_steps=40, seed=3, start_step=start)) == whole[start:]
    assert list(StepBatchSampler(LABELS, 7, num_steps=40, seed=4)) != whole
    assert len(StepBatchSampler(LABELS, 7, num_steps=40, start_step=13)) == 27
    assert len(StepBatchSampler(LABELS, 7, num_steps=40, start_step=50)) == 0


@pytest.mark.parametrize("balance", ["class", "sqrt", "none"])
def test_processes_share_one_stream(balance):
    whole = list(StepBatchSampler(LABELS, 12, num_steps=9, balance=balance))
    parts = [StepBatchSampler(LABELS, 4, num_steps=9, rank=r, num_processes=3, balance=balance) for r in range(3)]
    assert [sum(batches, []) for batches in zip(*parts, strict=True)] == whole


def test_classes_are_even_in_each_batch_and_the_remainder_rotates():
    counts = np.array(
        [np.bincount([LABELS[index] for index, _ in batch], minlength=3) for batch in StepBatchSampler(LABELS, 7, num_steps=30)]
    )
    assert set(np.unique(counts)) == {2, 3}
    np.testing.assert_array_equal(counts.sum(axis=0), [70, 70, 70])
    assert set(counts[:3].argmax(axis=1)) == {0, 1, 2}


def test_cases_of_a_class_are_visited_equally_often_in_changing_order():
    draws = [index for batch in StepBatchSampler(LABELS, 6, num_steps=17 * 15) for index, _ in batch]
    visits = np.bincount(draws)
    for label in range(3):
        assert np.ptp(visits[np.array(LABELS) == label]) == 0  # 510 draws of each class: a multiple of 17, 5 and 3
    cycles = np.array([index for index in draws if LABELS[index] == 1]).reshape(-1, 5)
    assert all(sorted(cycle) == [17, 18, 19, 20, 21] for cycle in cycles)
    assert len({tuple(cycle) for cycle in cycles}) > 50


def test_no_balance_is_shuffled_epochs():
    draws = [index for batch in StepBatchSampler(LABELS, 5, num_steps=15, balance="none") for index, _ in batch]
    epochs = np.array(draws).reshape(3, 25)
    assert all(sorted(epoch) == list(range(25)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_augmentation_seeds_do_not_repeat():
    seeds = [seed for batch in StepBatchSampler(LABELS, 16, num_steps=200) for _, seed in batch]
    assert len(set(seeds)) == len(seeds) and 0 <= min(seeds) and max(seeds) < 2**63


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"labels": []}, "no case"),
        ({"balance": "patients"}, "balance='patients'.*class, sqrt, none"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"rank": 2, "num_processes": 2}, "rank=2 of 2"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_sampler_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        StepBatchSampler(**{"labels": LABELS, "batch_size": 2, "num_steps": 3, **arguments})


def test_a_table_of_the_hub_is_decoded_as_files_are(tmp_path):
    """A film that is stored turned, a normal one without a lesion mask, labels with gaps that became fractions."""
    import datasets

    folder = usual(tmp_path / "films", film="png16", orientation=8, width=17)
    rows = {column: [] for column in (*COLUMNS, "label", "patient_id", "age")}
    for case in folder.of("train"):
        for column in COLUMNS:
            path = folder.root / "train" / case.row[f"{column}_file_name"]
            rows[column].append({"bytes": path.read_bytes(), "path": path.name})
        rows["label"].append(float(case.label))
        rows["patient_id"].append(case.name)
        rows["age"].append(float("nan"))
    rows["lesion_mask"][0], rows["label"][2] = None, float("nan")
    images = dict.fromkeys(COLUMNS, datasets.Image()) | {"label": datasets.Value("float64")}
    features = datasets.Features(images | {"patient_id": datasets.Value("string"), "age": datasets.Value("float64")})
    pairs = pairs_of(DatasetDict(train=Dataset.from_dict(rows, features=features)), "train", "owner/name")
    assert pairs["label"] == [0, 1, None, 1, 0, 1] and pairs["age"] == [None] * 6 and pairs.split_sizes == {"train": 6}
    assert pairs.names == pairs["patient_id"] == [case.name for case in folder.of("train")]
    for index, case in enumerate(folder.of("train")):
        for array, right in zip(pairs.arrays(index), (case.radiograph, case.anatomy, case.lesion), strict=True):
            np.testing.assert_array_equal(array, right)
        assert pairs.size(index) == (17, 12)


@pytest.mark.parametrize("label", [-1, 0.5, "1"])
def test_a_table_of_the_hub_whose_labels_are_none(label):
    square = Image.new("L", (8, 8))
    table = Dataset.from_list([{**dict.fromkeys(COLUMNS, square), "label": label}])
    with pytest.raises(ValueError, match=f"owner/name, split 'train', case 0: label '?{label}'? is not a class label"):
        pairs_of(DatasetDict(train=table), "train", "owner/name")
