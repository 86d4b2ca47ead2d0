"""The neighbouring systems of optimal transport, CTC and matching in the mini recipe: whole, and fair controls."""

from pathlib import Path

import pytest

from blspkd.config import TrainConfig
from blspkd.config_file import load_config, to_dict
from blspkd.evaluation.comparison_plan import plan
from blspkd.evaluation_config import CompareConfig
from blspkd.training.phases import alignment_of
from blspkd.training.run import resolved

CONF = Path(__file__).resolve().parents[2] / "egs/mini/blspkd1/conf"


def flat(values, prefix=""):
    if not isinstance(values, dict):
        return {prefix: values}
    return {key: value for name, entry in values.items() for key, value in flat(entry, f"{prefix}.{name}").items()}


def system(name):
    return resolved(load_config(TrainConfig, CONF / f"compare/{name}.yaml"))


def changed(one, other):
    one, other = (flat(to_dict(config)) for config in (one, other))
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)} - {".system"}


def test_all_budgets_can_be_planned_and_the_published_one_is_what_it_was():
    config = load_config(CompareConfig, CONF / "compare.yaml")
    runs = {budget: plan(config, budget, CONF / "compare", check=resolved) for budget in config.budgets}
    assert len(runs["full"]) == 30 and not any("ot" in run.system.split("+") for run in runs["full"])
    assert {"blsp+ot", "blsp+ot-shuffled", "blspkd+ctc+ot"} <= {run.system for run in runs["neighbours"]}


@pytest.mark.parametrize("name, control, differs", [
    ("blsp+ot-nonegatives", "blsp+ot-shuffled", {".loss.terms.ot_align.shuffled"}),
    ("blsp+ot", "blsp+ot-nonegatives", {".loss.terms.ot_align.negatives"}),
    ("blsp+encoder", "blsp", {".model.train_encoder"}),
    ("blspkd+mask_speech", "blspkd", {".data.operations"}),
])
def test_a_control_differs_in_one_thing(name, control, differs):
    assert changed(system(name), system(control)) == differs


@pytest.mark.parametrize("name", ["blsp", "blspkd"])
def test_ctc_and_transport_differ_in_transport_and_the_training_behind_them_in_nothing(name):
    first, control = (resolved(alignment_of(system(f"{name}+{kind}"))) for kind in ("ctc+ot", "ctc"))
    assert {key.split(".")[3] for key in changed(first, control)} == {"ot_align"}
    assert all(".align." in key for key in changed(system(f"{name}+ctc+ot"), system(f"{name}+encoder")))
    assert first.training.max_steps == control.training.max_steps == 400 and not first.loss.distils


def test_every_file_says_what_it_is_not():
    for name in ("blsp+ot", "blsp+match", "blspkd+mask_speech", "blsp+ctc+ot", "blspkd+ctc+ot"):
        first = (CONF / f"compare/{name}.yaml").read_text(encoding="utf-8").partition("base:")[0]
        assert "arXiv" in first and "\n# " in first and "Not " in first, name
