"""The page of an evaluation: what it says, and that a browser shows it right."""

import re

import numpy as np
import pytest
from browser import kept_screenshot, needs_browser, rendered
from sample_evaluation import SENTENCES, phantom_cases, sample_evaluation

from diffusers_macdm.evaluation.page import write_page
from diffusers_macdm.report.palette import BLUE, GRAY, VERMILION


COLORS = {"helps": BLUE, "hurts": VERMILION, "no evidence": GRAY}


@pytest.fixture(scope="module")
def cases():
    return phantom_cases(24, 0), phantom_cases(16, 1)


def page_of(folder, result, cases):
    folder.mkdir(exist_ok=True)
    write_page(folder, result, *cases)
    assert [path.name for path in folder.iterdir()] == ["index.html"]
    return folder / "index.html"


@pytest.fixture(scope="module", params=SENTENCES)
def page(request, tmp_path_factory, cases):
    return request.param, page_of(tmp_path_factory.mktemp("page"), sample_evaluation(request.param), cases)


def test_page_is_one_file_with_headed_tables_and_described_pictures(page):
    _, path = page
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text) and "<script" not in text and "url(" not in text
    assert "<th>" not in text and text.count("<table>") == text.count("<caption>") >= 6
    images = re.findall(r"<img [^>]*>", text)
    assert len(images) == 9 and all(re.search(r'alt="[^"]{20,}"', image) for image in images)
    anchors = re.findall(r'href="#(\w+)"', text)
    assert set(anchors) <= set(re.findall(r'id="(\w+)"', text)) and len(anchors) >= 10


def test_page_has_the_numbers_of_the_result(page):
    verdict, path = page
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", path.read_text(encoding="utf-8")))
    result = sample_evaluation(verdict)
    for row in result["results"][:-1]:
        low, high = (f"{end:.1f}" if end >= 10 else f"{end:.3f}" for end in row["interval"])
        assert f"{low} to {high}" in text
    for row in result["differences"]:
        assert f"{row['value']:+.3f}".replace("-", "−")[:5] in text
    for note in result["notes"]:
        assert note in text


@needs_browser
def test_rendered_page(page, tmp_path):
    verdict, path = page
    for width in (1280, 400):
        seen = rendered(path, width, tmp_path)
        assert SENTENCES[verdict] in seen["text"]
        assert seen["scrollWidth"] <= seen["clientWidth"] == width and not seen["tooWide"]
        assert len(seen["images"]) == 9
        for natural_width, natural_height, alt in seen["images"]:
            assert natural_width > 300 and natural_height > 200, alt

        name = f"evaluation_{verdict.replace(' ', '_')}"
        picture = np.asarray(kept_screenshot(path, name, width, seen["height"], tmp_path))  # [H, W, 3]
        assert picture.shape == (seen["height"], width, 3)
        # Nothing but text and pictures on white: neither blank nor unpainted from some height on.
        for part in np.array_split(picture, 8):
            assert 0.002 < (part < 200).any(axis=-1).mean() < 0.9
        # The mark of the first sentence is the first colored thing on the page.
        color = np.array([int(COLORS[verdict][place : place + 2], 16) for place in (1, 3, 5)])
        top = picture[: 400 if width == 1280 else 600].astype(int)
        marked = (np.abs(top - color) <= 2).all(axis=-1)
        assert marked.sum() > 500
        first = np.argwhere(marked)[0, 0]
        others = [other for other in COLORS.values() if other not in (COLORS[verdict], GRAY)]
        for other in others:
            value = np.array([int(other[place : place + 2], 16) for place in (1, 3, 5)])
            assert not (np.abs(top[: first + 20] - value) <= 2).all(axis=-1).any()


def test_what_was_not_measured_is_said(tmp_path, cases):
    result = sample_evaluation("no evidence")
    result |= {"realism": None, "fit": None, "by_site": None, "by_fold": None, "filters": {}, "notes": []}
    result["results"] = [row for row in result["results"] if "_0.25" not in row["arm"] or row["task"] != "diagnosis"]
    result["results"] = [row for row in result["results"] if row["arm"] in ("real_only", "real_plus_synthetic_1")]
    result["results"][0] |= {"value": None, "interval": None, "seed_sd": None}
    real, synthetic = cases
    normal = synthetic.select((synthetic.class_labels == 0).nonzero().flatten())
    text = page_of(tmp_path / "page", result, (real, normal)).read_text(encoding="utf-8")
    for reason in (
        "fewer than two ratios were evaluated",
        "no filter was asked for",
        "sites were not left out",
        "realism was left out",
        "the fit was left out",
    ):
        assert f"Not measured: {reason}" in text
    assert "<td>not measured</td>" in text and "Synthetic: there are none." in text
    assert "Notes" not in text


def test_text_of_users_is_escaped(tmp_path, cases):
    result = sample_evaluation("helps")
    result["notes"] = ["<script>alert(1)</script>"]
    text = page_of(tmp_path / "page", result, cases).read_text(encoding="utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text
