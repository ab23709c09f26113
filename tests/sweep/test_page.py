"""The page of a sweep: what it says, and that a browser shows it right."""

import re

import numpy as np
import pytest
from browser import kept_screenshot, needs_browser, rendered

from diffusers_macdm.sweep.page import sweep_page, value_name


def measures(shift):
    found = {"kid": 0.03 + shift, "recall": 0.6 - shift, "lesion_fit": 0.5 + shift, "copy_rate": 0.06}
    return [{"name": name, "value": value, "interval": [value - 0.02, value + 0.02]} for name, value in found.items()]


def sample_sweep() -> dict:
    grid = {"guidance_scale": [0.0, 1.0, 2.0, 4.0], "guidance_interval": [[0.0, 1.0], [0.2, 0.8]], "strength": [1.0]}
    points = [
        {"parameter": parameter, "value": value, "measures": measures(0.013 * index)}
        for parameter, values in grid.items()
        for index, value in enumerate(values)
    ]
    points[1]["measures"][2] |= {"value": None, "interval": None}
    return {
        "conclusion": ["This run does not decide whether masks weighted above 0.8 hurt the image."],
        "points": [*points, {"parameter": None, "value": {"strength": 0.4, "w2": 0.8}, "measures": measures(0.1)}],
        "references": {"kid": {"real versus real": 0.0005}, "copy_rate": {"by chance": 0.05}},
        "notes": ["20 pairs of each class at each point."],
        "settings": {"model": "model", "num_per_class": 20},
        "versions": {"torch": "2.8.0"},
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    sweep_page(folder, sample_sweep())
    assert [path.name for path in folder.iterdir()] == ["index.html"]
    return folder / "index.html"


def test_every_point_is_in_the_table_and_every_curve_is_a_picture(page):
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>\s*<td>(.*?)</td>', text)
    assert rows == [
        *(("guidance scale", value) for value in "0124"),
        *(("guidance interval", value) for value in ("0:1", "0.2:0.8")),
        ("strength", "1"),
        ("grid", "strength 0.4, w2 0.8"),
        ("for comparison", ""),
    ]
    assert "real versus real: 0.0005" in text and "by chance: 0.050" in text and "<td>not measured</td>" in text
    assert text.count("<img ") == 8  # four measures of two options; a single strength makes no curve
    assert "Not measured: a curve needs two values." in text
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)


@needs_browser
def test_rendered_page(page, tmp_path):
    for width in (1280, 400):
        seen = rendered(page, width, tmp_path)
        assert "This run does not decide" in seen["text"]
        assert seen["scrollWidth"] <= seen["clientWidth"] == width and not seen["tooWide"]
        assert len(seen["images"]) == 8 and all(width > 300 and height > 200 for width, height, _ in seen["images"])
    picture = np.asarray(kept_screenshot(page, "sweep", 400, seen["height"], tmp_path))  # [H, W, 3]
    assert all(0.002 < (part < 200).any(axis=-1).mean() < 0.9 for part in np.array_split(picture, 8))


@pytest.mark.parametrize(
    "value, name", [(2.0, "2"), ([0.2, 0.8], "0.2:0.8"), ({"w2": 0.5, "strength": 1}, "w2 0.5, strength 1")]
)
def test_value_names(value, name):
    assert value_name(value) == name
