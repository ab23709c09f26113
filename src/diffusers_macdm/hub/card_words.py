"""The words of a card: templates of `model_cards/`, and how facts are printed in them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import jinja2
from markupsafe import Markup

from ..macdm.joint_sample import NORMAL_LABEL


NOT_RECORDED, NOT_MEASURED = "not recorded", "not measured"
# In this order: the backslash before those that bring one, the ampersand before those that bring that.
ESCAPED = {"\\": "\\\\", "&": "&amp;", "<": "&lt;"} | {mark: f"\\{mark}" for mark in "|`[*"}


def render(template: str, *, metadata, **facts) -> str:
    package = Path(__file__).resolve().parents[1]
    environment = jinja2.Environment(
        # Installed, the templates are a folder of the package; in a clone they stand beside src/.
        loader=jinja2.FileSystemLoader([package / "model_cards", package.parents[1] / "model_cards"]),
        undefined=jinja2.ChainableUndefined,
        autoescape=True,  # so that what a macro returns is known to be done
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "text": _text,
        "number": _number,
        "percent": _percent,
        "share": _share,
        "duration": _duration,
        "yes_no": _yes_no,
        "listing": _listing,
        "interval": _interval,
        "label_name": _label_name,
    }
    yaml = Markup(metadata.to_yaml())  # which quotes its texts
    return environment.get_template(template).render(metadata=yaml, not_measured=NOT_MEASURED, **facts)


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_interval(value) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_number, value))


def without_tags(text) -> str:
    """Return text on one line that begins no tag of HTML, for the metadata of a card, which no template escapes."""
    return " ".join(str(text).split()).replace("<", "&lt;")


def _missing(value) -> bool:
    return value is None or isinstance(value, jinja2.Undefined)


def _shown(value) -> Markup:
    """Print a value, every value that reaches a card: never a blank for a fact that is not there, and no markup."""
    if _missing(value):
        return Markup(NOT_RECORDED)
    return value if isinstance(value, Markup) else _escaped(re.sub(r"\s+", " ", str(value)))


def _text(value) -> Markup | None:
    """Escape text of a user or a file, so that it cannot end a table's cell or begin markup; what is escaped stays."""
    if _missing(value):
        return None
    if isinstance(value, Markup):
        return value
    text = _escaped(" ".join(str(value).split()))
    # At the beginning of a line these would begin a heading, a quotation, a list or a block of code.
    return Markup("\\" + text if text[:1] in ("#", ">", "-", "+", "=", "~") else text) or None


def _escaped(text: str) -> Markup:
    for character, entity in ESCAPED.items():
        text = text.replace(character, entity)
    return Markup(text)


def _number(value, digits: int = 4):
    if _missing(value):
        return None
    if not is_number(value):
        return NOT_MEASURED
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


def _percent(value):
    """Print a measured share: 0.064 -> "6.4 %"."""
    if _missing(value) or not is_number(value):
        return NOT_MEASURED
    return f"{100 * value:.3g} %"


def _share(part, count: str = "count"):
    """Print a measured share with what it was counted from: "6 % (12 of 200; 95 % interval 3 % to 10 %)"."""
    if _missing(part) or not isinstance(part, dict) or not is_number(part.get("value")):
        return NOT_MEASURED
    details = []
    if is_number(part.get(count)) and is_number(part.get("total")):
        details.append(f"{part[count]} of {part['total']}")
    if is_interval(part.get("interval")):
        details.append(f"95 % interval {' to '.join(map(_percent, part['interval']))}")
    return _percent(part["value"]) + (f" ({'; '.join(details)})" if details else "")


def _interval(value):
    return f"{value[0]:.3f} to {value[1]:.3f}" if is_interval(value) else NOT_MEASURED


def _duration(seconds):
    if _missing(seconds):
        return NOT_MEASURED
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _yes_no(value):
    return None if _missing(value) else "yes" if value else "no"


def _listing(values):
    """`{"train": 250, "test": 63}` -> "train 250, test 63"; a list likewise, or None where it has nothing at all."""
    if _missing(values) or all(map(_missing, values)):
        return None
    if isinstance(values, dict):
        return Markup(", ".join(f"{_text(name)} {_item(value)}" for name, value in values.items()))
    return Markup(", ".join(map(_item, values)))


def _item(value) -> str:
    return _number(value) if is_number(value) else _shown(_text(value))


def _label_name(label) -> str:
    if str(label) == "none":
        return "unlabeled"
    return f"label {label} ({'normal' if str(label) == str(NORMAL_LABEL) else 'with a lesion'})"
