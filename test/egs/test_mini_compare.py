"""Every system of the mini recipe's conf/compare can be planned, also those that compare.yaml does not name."""

from dataclasses import replace
from pathlib import Path

from blspkd.config_file import load_config
from blspkd.evaluation.comparison_plan import plan
from blspkd.evaluation.scorers import load_decode_config
from blspkd.evaluation_config import BudgetConfig, CompareConfig
from blspkd.training.run import resolved

CONF = Path(__file__).resolve().parents[2] / "egs/mini/blspkd1/conf"


def test_every_file_is_a_system(monkeypatch):
    config = load_config(CompareConfig, CONF / "compare.yaml")
    names = sorted(path.stem for path in (CONF / "compare").glob("*.yaml"))
    assert set(config.systems) <= set(names)
    every = replace(config, systems=dict.fromkeys(names, 1), budgets={"full": BudgetConfig()})
    runs = {run.system: run for run in plan(every, "full", CONF / "compare", check=resolved)}
    assert runs.keys() == set(names)
    assert all(path.read_text().startswith("# ") for path in (CONF / "compare").glob("*.yaml"))
    assert runs["oracle"].of == "blspkd+best-seed0" and runs["oracle"].inference == "--count=transcript"
    assert runs["silence"].of == runs["oracle-silence"].of == "blspkd+best-seed0"
    assert runs["silence"].inference == "--hears=silence"
    assert runs["oracle-silence"].inference == "--count=transcript --hears=silence"
    assert runs["blspkd+rescored"].inference == ("--count=posterior_alpha --recount=1 --recount_by=llm "
                                                 "--recount_weight=4.0")


def test_what_is_to_beat_the_cascade_can_be_planned(monkeypatch):
    monkeypatch.chdir(CONF.parent)
    config = load_config(CompareConfig, CONF / "compare_heard.yaml")
    assert set(config.systems) == {path.stem for path in (CONF / "compare_heard").glob("*.yaml")}
    runs = {run.name: run for run in plan(config, "full", CONF / "compare_heard", check=resolved)}
    assert runs["heard-oracle-seed2"].of == "blspkd+heard-seed2" and runs["blspkd+heard-seed2"].max_steps == 1200


def test_the_merge_is_tried_from_one_end_to_the_other_without_training():
    config = load_config(CompareConfig, CONF / "compare.yaml")
    runs = {run.system: run for run in plan(config, "neighbours", CONF / "compare")}
    lora = "blspkd+lora-seed0"
    for name, alpha, rest in ("0", "0", "1"), ("25", "0.25", "0.75"), ("", "0.5", "0.5"), ("75", "0.75", "0.25"), (
            "100", "1", "0"):
        run = runs[f"blspkd+lora-merged{name}"]
        assert (run.of, run.merge) == (lora, f"{lora}={alpha} none={rest}") and not run.max_steps


def test_scores_are_told_apart_by_the_number_of_speech_tokens():
    """What the budget `robust` is about: how much of a loss is counting."""
    assert load_decode_config(CONF / "decode.yaml").by_count
    systems = load_config(CompareConfig, CONF / "compare.yaml").budgets["robust"].systems
    assert {"cascade", "blspkd+best", "oracle", "silence", "oracle-silence"} <= set(systems)
