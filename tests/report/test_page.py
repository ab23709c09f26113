"""Numbers on the pages."""

import pytest

from diffusers_macdm.report.page import number, number_interval, plain, render


@pytest.mark.parametrize(
    "value, text",
    [
        (0.5, "0.500"),
        (-0.25, "−0.250"),
        (0.0, "0.000"),
        (0.00042, "0.0004"),
        (12.345, "12.3"),
        (4321.6, "4,322"),
        (1.18e8, "1.18e+08"),
        (1_234_567, "1,234,567"),
        (None, "not measured"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_difference_has_a_sign_and_an_interval_two_ends():
    assert number(0.004, sign=True) == "+0.004"
    assert number_interval([-0.1, 0.02], sign=True) == "−0.100 to +0.020"
    assert number_interval(None) == "no interval"


def test_names_in_words():
    assert plain("real_plus_synthetic_0.5") == "real + synthetic 0.5"
    assert plain("roc_auc") == "ROC AUC"


def test_page_escapes_what_it_is_given_but_not_its_own_style(tmp_path):
    template = tmp_path / "own.html.jinja"
    template.write_text('{% extends "base.html.jinja" %}{% block body %}{{ text }}{% endblock %}')
    page = render(template, text="<script>")
    assert "&lt;script&gt;" in page and '"Segoe UI"' in page


def test_a_click_enlarges_a_picture_without_a_script(tmp_path):
    template = tmp_path / "own.html.jinja"
    template.write_text(
        '{% extends "base.html.jinja" %}{% from "parts.html.jinja" import picture %}{% block body %}'
        '{{ picture("data:,", "a film") }}{% endblock %}'
    )
    page = render(template)
    assert '<input type="checkbox" class="enlarge"><img src="data:," alt="a film">' in page
    assert ".enlarge:checked + img" in page and "prefers-color-scheme: dark" in page and "<script" not in page
