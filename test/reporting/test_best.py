"""Which of several systems is the best one of a column."""

import pytest

from blspkd.evaluation.alignment_summary import MEASURES
from blspkd.evaluation.results import Row
from blspkd.reporting.best import LOWER_IS_BETTER, NONE_IS_BEST, best
from blspkd.reporting.tables import arrange


@pytest.mark.parametrize("metric", MEASURES)
def test_every_measure_of_alignment_has_its_better_end(metric):
    rows = [Row(name, "test", "alignment", metric, value, [value, value], 9, 0, "") for name, value in (("a", 1.0),
                                                                                                       ("b", 2.0))]
    lower = any(part in metric for part in ("kl", "wer", "mae", "boundary_mean_ms", "boundary_median"))
    assert lower == (metric in LOWER_IS_BETTER)
    expected = None if metric in NONE_IS_BEST else "a" if lower else "b"
    found = best(arrange(rows, [metric]), ("alignment", metric, "test"))
    assert (found and found.system) == expected
