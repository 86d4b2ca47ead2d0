"""A metric from outside: one class and one entry of SCORERS; value, interval, paired test and tables follow."""

from collections import Counter

import numpy as np
import pytest
import yaml

from blspkd.errors import ConfigError
from blspkd.evaluation.comparison import Comparison, Run, measure
from blspkd.evaluation.decode_dir import DecodeDir
from blspkd.evaluation.results import read_results
from blspkd.evaluation.scorers import SCORERS, load_decode_config
from blspkd.evaluation.scorers.scorer import Scorer
from blspkd.evaluation.scorers.texts import folded
from blspkd.evaluation.scoring import score_experiment
from blspkd.evaluation_config import DecodeConfig, TaskConfig
from blspkd.reporting import comparison_page
from blspkd.reporting.results_page import Page, screen, write_page

SAID = ["the cat sat on the mat", "ten dogs ran", "a bird sang all day", "we saw two red cars"] * 3


class TokenF1(Scorer):
    """F1 of the bags of words, over the whole set; with the share of answers without a right word."""

    label = "token F1"
    parts = {"_nothing": (3, 4)}

    def table(self, rows, task):
        """[n, 5]: words in both, words of the answer, words of the reference, none in both, 1."""
        pairs = [[Counter(text.split()) for text in texts] for texts in zip(*folded(rows, task.normalize), strict=True)]
        return np.array([[(own & wanted).total(), own.total(), wanted.total(), not own & wanted, 1]
                         for own, wanted in pairs], dtype=float)

    def score(self, sums):
        return 200 * sums[..., 0] / (sums[..., 1] + sums[..., 2])


@pytest.fixture
def scorer(monkeypatch):
    monkeypatch.setitem(SCORERS, "token_f1", TokenF1)


CONFIG = DecodeConfig(tasks={"qa": TaskConfig("Answer.", ["token_f1"])}, systems=["speech"], num_bootstrap=200)


def decoded(exp_dir, system, change):
    exp_dir.mkdir()
    (exp_dir / "config.yaml").write_text(yaml.safe_dump({"system": system, "training": {"seed": 0}}))
    directory = DecodeDir(exp_dir, "qa", "test", "speech", {})
    directory.start()
    directory.write_part(0, [{
        "utt_id": f"u{number:02d}", "instruction": "Answer.", "transcript": said, "reference": said,
        "hypothesis": change(number, said), "n_tokens": 5, "n_tokens_reference": None,
        "source_utt_id": f"u{number:02d}", "finished": True} for number, said in enumerate(SAID)])
    directory.finish(1)
    return score_experiment(exp_dir, CONFIG, ["test"])


def without_last_word(number, said):
    return said.rpartition(" ")[0] if number % 3 else said.upper() + "!"


def test_a_new_scorer_needs_its_class_and_one_entry(scorer, tmp_path):
    rows = {row.metric: row for row in decoded(tmp_path / "good-seed0", "good", without_last_word)}
    words = sum(len(said.split()) for said in SAID)
    found = words - sum(number % 3 > 0 for number in range(len(SAID)))
    assert rows["token_f1"].value == pytest.approx(200 * found / (words + found), abs=1e-3)
    assert rows["token_f1"].ci95[0] < rows["token_f1"].value < rows["token_f1"].ci95[1]
    assert rows["token_f1"].n == len(SAID) and rows["token_f1"].signature.endswith("|bs:200|seed:0")
    assert rows["token_f1_nothing"].value == 0

    decoded(tmp_path / "bad-seed0", "bad", lambda number, said: "cars" if number < 8 else said)
    runs = [Run(f"{name}-seed0", name, tmp_path, 0) for name in ("good", "bad")]
    measured = measure(runs, "good", tmp_path, CONFIG, ["test"])
    bad, = [one for one in measured if (one.system, one.metric) == ("bad", "token_f1")]
    assert bad.difference == pytest.approx(bad.mean - rows["token_f1"].value, abs=1e-3)
    assert bad.difference_ci95[0] < bad.difference < bad.difference_ci95[1] < 0 and bad.p < 0.05

    shown = comparison_page.screen(Comparison("good", "full", 9, measured))
    assert "qa token F1" in shown and f"{bad.mean:.1f} ({bad.difference:+.1f}*" in shown
    page = Page(read_results(tmp_path / "good-seed0/results.json"), [], [])
    low, high = rows["token_f1"].ci95
    assert "qa token F1" in screen(page) and f"({low:.1f}-{high:.1f})" in screen(page)
    write_page(tmp_path / "RESULTS.md", page, [], "", "")
    written = (tmp_path / "RESULTS.md").read_text()
    assert f"| good | {rows['token_f1'].value:.1f} [{low:.1f}, {high:.1f}] |" in written
    assert written.count("token f1 nothing") == 0  # parts of a task's metrics are no measurements beside it


def test_it_is_a_mistake_in_the_configuration_without_that_entry(tmp_path):
    (tmp_path / "decode.yaml").write_text("tasks: {qa: {metrics: [token_f1]}}")
    with pytest.raises(ConfigError, match="decode.yaml: metrics: there is no 'token_f1'; known: agreement_chrf, "):
        load_decode_config(tmp_path / "decode.yaml")
