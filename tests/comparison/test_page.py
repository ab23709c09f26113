"""The page of a comparison: what it says, and that a browser shows it right."""

import re

import numpy as np
import pytest
from browser import kept_screenshot, needs_browser, rendered
from PIL import Image

from diffusers_macdm.comparison.page import title_of, write_comparison_page
from diffusers_macdm.report.palette import BLUE, VERMILION


CONTROLS = ("real_only", "classical_augmentation", "duplicated_real")
MODELS = ("macdm", "classifier_free", "conditional_gan")
SHIFTS = {"macdm": 0.1, "classifier_free": 0.0, "conditional_gan": -0.1}
CAPTION = "Diagnosis of test cases after training with each model's pairs (95 % interval)"
SENTENCE = "Diagnosis: the pairs of macdm help."
NUM_IMAGES = 2 + 2 + 2 + 2 + 3 + 3  # at two sizes differences to controls and between models; curves; contact sheets


def estimate(value, half=0.03):
    return {"value": value, "interval": [value - half, value + half]}


def difference(task, metric, value, **names):
    row = {"task": task, "metric": metric, **names, **estimate(value)}
    return row | {"verdict": "better" if value > 0.03 else "worse" if value < -0.03 else "no evidence"}


def sample_comparison() -> dict:
    sizes, metrics = (100, 250), {"diagnosis": ("roc_auc", 0.75), "segmentation": ("dice", 0.4)}
    common = [(size, task, metric, base) for size in sizes for task, (metric, base) in metrics.items()]
    return {
        "conclusion": [SENTENCE],
        "verdicts": {
            "diagnosis": {"macdm": "helps", "classifier_free": "no evidence", "conditional_gan": "hurts"},
            "segmentation": {"macdm": "no claim", "classifier_free": "no claim"},
        },
        "models": {
            name: {
                "description": f"{name}, after its paper",
                "makes_masks": "generated",
                "num_parameters": 1_234_567,
                "seconds_training": 83.2,
                "seconds_per_pair": 0.021,
            }
            for name in MODELS
        },
        "results": [
            {
                **{"train_size": size, "task": task, "metric": metric, "arm": arm, "primary": True, "higher_is_better": True},
                **estimate(base + size / 5000 + SHIFTS.get(arm, 0)),
            }
            for size, task, metric, base in common
            for arm in (*CONTROLS, *MODELS)
        ],
        "differences": [
            difference(task, metric, SHIFTS[model], arm=model, against=control, train_size=size)
            for size, task, metric, _ in common
            for model in MODELS
            for control in CONTROLS
        ]
        + [
            difference(task, metric, 0.1 - SHIFTS[other], arm="macdm", against=other, train_size=size)
            for size, task, metric, _ in common
            for other in MODELS[1:]
        ],
        "realism": [
            {"model": model, "train_size": size, "name": name, "label": label, **estimate(value), "real_versus_real": 0.004}
            for size in sizes
            for index, model in enumerate(MODELS)
            for label in (None, 1)
            for name, value in (("kid", 0.05 + 0.1 * index), ("recall", 0.6 - 0.01 * index))
        ],
        "fit": [
            {"model": model, "train_size": size, "mask": "lesion_mask", "label": None, **estimate(0.4), "real": 0.55}
            for size in sizes
            for model in MODELS[:2]
        ],
        "copies": [
            {"model": model, "train_size": size, **estimate(0.05), "nominal_rate": 0.05} for size in sizes for model in MODELS
        ],
        "far": [
            {"model": model, "train_size": size, **estimate(0.1 * index), "nominal_rate": 0.05}
            for size in sizes
            for index, model in enumerate(MODELS)
        ],
        "notes": ["Two numbers of training cases."],
        "settings": {"steps": 2000},
        "versions": {"torch": "2.8.0"},
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    sheets = {name: folder / f"{name}.png" for name in MODELS}
    for path in sheets.values():
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 550), dtype=np.uint8)).save(path)
    write_comparison_page(folder, sample_comparison(), sheets)
    return folder / "index.html"


def tables(text):
    """Rows of cells in words, by caption."""
    words = lambda part: re.sub(r"\s+", " ", re.sub(r"<(?!/?strong)[^>]*>", " ", part)).replace(" </", "</").strip()  # noqa: E731
    return {
        words(re.search(r"<caption>(.*?)</caption>", table, re.DOTALL)[1]): [
            [words(cell) for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", row, re.DOTALL)]
            for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
        ]
        for table in re.findall(r"<table>.*?</table>", text, re.DOTALL)
    }


def test_tables_have_the_numbers_and_bold_only_where_no_interval_overlaps(page):
    text = page.read_text(encoding="utf-8")
    found = tables(text)
    assert found["Against the controls, with the most training cases"] == [
        ["model", "diagnosis", "segmentation"],
        ["MaC-DM", "▲ helps", "○ no claim"],
        ["classifier-free guidance", "● no evidence", "○ no claim"],
        ["conditional GAN", "▼ hurts", "not measured"],
    ]
    downstream = {row[0]: row[1:] for row in found[CAPTION]}
    assert downstream["MaC-DM"][0] == "<strong>0.900 (0.870 to 0.930)</strong>"
    assert downstream["real only"][0] == "0.800 (0.770 to 0.830)"
    pairs = {row[0]: row[1:] for row in found["Radiographs, trained on 250 cases (95 % interval)"]}
    assert pairs["model"] == ["KID", "recall"] and pairs["for comparison"] == ["0.0040", "0.0040"]
    assert pairs["MaC-DM"][0] == "<strong>0.050 (0.020 to 0.080)</strong>"  # the lowest is the best
    assert "strong" not in pairs["MaC-DM"][1]  # recall 0.60 against 0.59: no winner
    masks = {row[0]: row[1:] for row in found["Masks and copies, trained on 250 cases (95 % interval)"]}
    assert masks["model"] == ["lesion mask fit Dice", "copy rate", "far rate"]
    assert masks["for comparison"] == ["0.550", "0.050", "0.050"] and "0.200" in masks["conditional GAN"][2]
    assert masks["conditional GAN"][0] == "not measured"
    rows = found["Diagnosis: ROC AUC, difference between models (95 % interval)"]
    assert rows[1][1:] == ["+0.100 (+0.070 to +0.130) ▲ better", "+0.200 (+0.170 to +0.230) ▲ better"]
    assert text.count("<img ") == NUM_IMAGES and not re.search(r"(?:src|href)=\"(?!data:|#)", text)


def test_models_have_their_own_titles_and_other_arms_are_said_in_words():
    assert [title_of(name) for name in ("macdm", "real_only")] == ["MaC-DM", "real only"]


@needs_browser
def test_rendered_page(page, tmp_path):
    for width in (1280, 400):
        seen = rendered(page, width, tmp_path)
        assert SENTENCE in seen["text"]
        assert seen["scrollWidth"] <= seen["clientWidth"] == width and not seen["tooWide"]
        assert len(seen["images"]) == NUM_IMAGES
        assert all(width > 300 and height > 200 for width, height, _ in seen["images"])
        picture = np.asarray(kept_screenshot(page, "comparison", width, seen["height"], tmp_path)).astype(int)  # [H, W, 3]
        assert all(0.002 < (part < 200).any(axis=-1).mean() < 0.9 for part in np.array_split(picture, 8))
        # The marks of the first table, a model that helps above one that hurts.
        top = picture[:1000]
        first = []
        for color in (BLUE, VERMILION):
            value = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
            marked = (np.abs(top - value) <= 2).all(axis=-1)
            marked[: 300 if width == 1280 else 480] = False  # links have the same blue
            assert marked.any()
            first.append(np.argwhere(marked)[0, 0])
        assert first[0] < first[1]
