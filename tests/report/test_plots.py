"""What the plots draw, asked of the figures themselves."""

import itertools

import numpy as np
import pytest

from diffusers_macdm.report.palette import PALETTE, VERDICT_COLORS_ON_DARK
from diffusers_macdm.report.plots import MARKERS, curves, forest_plot, histograms, loss_curves, scatter


def estimate(value, half=0.1, **more):
    return {"value": value, "interval": [value - half, value + half], **more}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def luminance(color):
    """Relative luminance of "#rrggbb" (WCAG 2.2)."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", PALETTE)
def test_colors_can_be_seen_on_white(color):
    assert 1.05 / (luminance(color) + 0.05) >= 3  # WCAG 2.2, 1.4.11: graphics


def test_a_forest_has_a_row_for_each_arm_and_a_marker_for_each_control():
    rows = {"a": {"x": estimate(0.2), "y": estimate(-0.1)}, "b": {"x": estimate(0.3) | {"interval": None}, "y": estimate(0.1)}}
    rows["b"]["y"]["value"] = None
    figure = forest_plot(rows, "difference", "no difference")
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    assert legend(figure) == ["no difference", "x", "y"]
    points = [line for line in axes.lines if line.get_marker() in MARKERS]
    assert [float(line.get_xdata()[0]) for line in points] == [0.2, -0.1, 0.3]
    assert len({(line.get_color(), line.get_marker()) for line in points}) == 2
    assert sum(len(line.get_xdata()) == 2 and line.get_marker() == "None" for line in axes.lines) == 1 + 2  # zero, intervals


@pytest.mark.parametrize("log_x", [False, True])
def test_curves_pass_through_their_values_in_order(log_x):
    points = [estimate(value, x=x) for x, value in ((4, 0.3), (1, 0.1), (2, 0.2))]
    figure = curves({"one": points, "two": [estimate(0.5, x=2) | {"interval": None}]}, "x", "y", {"chance": 0.05}, log_x)
    (axes,) = figure.axes
    assert legend(figure) == ["one", "two", "chance"]
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["one"].get_ydata()) == [0.1, 0.2, 0.3] and list(lines["two"].get_ydata()) == [0.5]
    np.testing.assert_allclose(lines["one"].get_xdata(), [1, 2, 4], rtol=0.04)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "4"]
    assert axes.get_xscale() == ("log" if log_x else "linear")
    assert sum(len(line.get_xdata()) == 2 and line.get_alpha() == 0.75 for line in axes.lines) == 3  # intervals


def test_groups_of_points_differ_in_color_and_marker():
    figure = scatter({f"group {i}": [(i, 0), (i, 1)] for i in range(7)})
    (axes,) = figure.axes
    assert legend(figure) == [f"group {i}" for i in range(7)]
    pairs = itertools.combinations(axes.collections, 2)
    assert all((a.get_facecolor() != b.get_facecolor()).any() for a, b in pairs)
    assert len({group.get_paths()[0].vertices.tobytes() for group in axes.collections}) == 7


def test_histograms_show_shares_and_leave_nobody_out():
    generator = np.random.default_rng(0)
    reference, values = generator.normal(0, 1, 500), generator.normal(1, 1, 40)
    panels = {
        "first": (reference, values, -1.5),
        "second": (reference, np.full(40, 9.0), 0.5),
        "third": (np.ones(3), np.ones(2), 1),
    }
    figure = histograms(panels, ("validation", "synthetic", "threshold"), "share")
    assert [axes.get_title() for axes in figure.axes] == list(panels)
    for axes, (_, _, threshold) in zip(figure.axes, panels.values(), strict=True):
        heights = [sum(bar.get_height() for bar in group) for group in axes.containers]
        np.testing.assert_allclose(heights, [1, 1], rtol=1e-9)
        assert list(axes.lines[0].get_xdata()) == [threshold, threshold]


@pytest.mark.parametrize("color", VERDICT_COLORS_ON_DARK.values())
def test_colors_of_verdicts_can_be_read_on_a_dark_page(color):
    assert (luminance(color) + 0.05) / (luminance("#141416") + 0.05) >= 4.5  # WCAG 2.2, 1.4.3: text


def test_loss_curves_smooth_what_is_logged_and_leave_out_what_is_missing():
    rows = [{"step": 10 * i, "simple/radiograph": 2.0**-i, "simple/lesion_mask": np.nan} for i in range(1, 81)]
    figure = loss_curves(rows)
    (axes,) = figure.axes
    logged, smooth = axes.lines
    assert legend(figure) == ["radiograph"] and axes.get_yscale() == "log"
    assert np.array_equal(logged.get_xdata(), np.arange(10, 801, 10))
    assert smooth.get_ydata()[0] == pytest.approx((0.5 + 0.25 + 0.125 + 0.0625) / 4)  # of 80 / 20 lines
    assert smooth.get_xdata()[0] == 25
