"""The colors of all plots and pages: those of Okabe and Ito (2008), told apart by color-blind readers too.

Some are darker than in the paper, so that they can be read as text on white. Nothing is said by color alone.
"""

from __future__ import annotations


BLUE, ORANGE, GREEN, VERMILION = "#0072b2", "#b87a00", "#007a5a", "#c44e00"
PURPLE, SKY, GRAY = "#a8538a", "#3f8fbf", "#5f6368"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GRAY, "#000000")
VERDICT_COLORS = {"good": BLUE, "bad": VERMILION, "neutral": GRAY}
# On a dark page: those of the paper, or lighter; on marks, white stands on the colors above.
VERDICT_COLORS_ON_DARK = {"good": "#56b4e9", "bad": "#e69f00", "neutral": "#a9a9ad"}
