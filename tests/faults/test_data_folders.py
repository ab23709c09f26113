"""Odd data folders: each is read as it was written or named; none is read wrongly, ends in a traceback or is waited for."""

from collections import Counter

import pytest
from odd_folders import ODD
from odd_folders_trial import HANG, TRACEBACK, attempt


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_odd_folders():
    counts, wrong = Counter(), []
    for odd in ODD:
        outcome, why = attempt(odd)
        counts[outcome] += 1
        if outcome != odd.outcome:
            wrong.append(f"{odd.name}: {outcome}, not {odd.outcome}: {why}")
    print(
        f"\nodd data folders: {len(ODD)} tried, {counts['named']} named, {counts['read']} read rightly, {len(wrong)} wrong, "
        f"{counts[TRACEBACK]} tracebacks, {counts[HANG]} hangs"
    )
    assert len(ODD) >= 150 and len({odd.name for odd in ODD}) == len(ODD)
    assert not wrong, "\n".join(wrong)
