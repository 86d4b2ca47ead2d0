"""Comparisons: which runs a plan holds, and what is made of their results."""

import json
from dataclasses import replace

import pytest

from blspkd.bin import compare
from blspkd.bin.compare import systems_to_decode
from blspkd.errors import ConfigError, DataError
from blspkd.evaluation.bootstrap import holm
from blspkd.evaluation.comparison import (
    Comparison,
    Measured,
    Snapshot,
    all_rows,
    measure,
    measure_controls,
    measure_snapshots,
    read_comparison,
    write_comparison,
)
from blspkd.evaluation.comparison_plan import Run, check_typed, plan
from blspkd.evaluation.results import Row, update_results, write_results
from blspkd.evaluation_config import BudgetConfig, CompareConfig, DecodeConfig, TaskConfig
from blspkd.reporting import comparison_page
from blspkd.reporting.comparison_time import time_left
from blspkd.training.run import resolved

DECODE = DecodeConfig(tasks={"repeat": TaskConfig("Repeat.", ["exact_match"])}, num_bootstrap=200)
CONFIG = CompareConfig(systems={"text": 1, "blsp": 2, "blspkd": 3},
                       budgets={"full": BudgetConfig(), "small": BudgetConfig(max_steps=7, max_seeds=1)})


@pytest.fixture
def conf_dir(tmp_path):
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "text.yaml").write_text("system: text\nreads: transcript\n")
    (folder / "blspkd.yaml").write_text("system: blspkd\ntraining: {max_steps: 50}\n")
    (folder / "blsp.yaml").write_text("base: blspkd.yaml\nsystem: blsp\nmodel: {adapter: conv}\n"
                                       "loss: {w_input: 0, terms: {quantity: {weight: 0}}}\n")
    return folder


def make_run(folder, run, right, n=40, chance=False):
    """A run whose first `right` of n answers are right."""
    suffix = {"speech": "", "text": ".text"}[run.decoded_as]
    decoded = folder / run.name / f"decode_repeat_test{suffix}"
    decoded.mkdir(parents=True)
    rows = [{"utt_id": f"u{i:02d}", "hypothesis": "a" if i < right else "b", "reference": "a", "n_tokens": 3,
             "n_tokens_reference": 3 if i < right else 4} for i in range(n)]
    (decoded / "hyp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (decoded / "decode.json").write_text("{}")
    value = 100 * right / n
    found = [Row(run.system, "test", "repeat", "exact_match", value, [value - 5, value + 5], n, run.seed, "s")]
    if not run.reads:
        found += [Row(run.system, "test", "alignment", "count_accuracy", value, [value, value], n, run.seed, "s"),
                  Row(run.system, "train", "cost", "wall_s", 10.0, [10.0, 10.0], 1, run.seed, "")]
    if chance:
        found.append(Row("chance", "test", "repeat", "exact_match", 0.0, [0.0, 0.0], n, run.seed, "s"))
    write_results(folder / run.name / "results.json", found)


def test_a_plan_has_one_run_a_seed_and_the_reference_first(conf_dir):
    runs = plan(CONFIG, "full", conf_dir)
    assert [run.name for run in runs] == ["blspkd-seed0", "text", "blsp-seed0", "blspkd-seed1", "blsp-seed1",
                                          "blspkd-seed2"]
    assert [run.max_steps for run in runs] == [50, 0, 50, 50, 50, 50]
    assert {run.name: run.decoded_as for run in runs}["text"] == "text"
    assert [(run.name, run.max_steps) for run in plan(CONFIG, "small", conf_dir)] == [
        ("blspkd-seed0", 7), ("text", 0), ("blsp-seed0", 7)]


@pytest.mark.parametrize(("change", "message"), [
    (lambda folder: (folder / "blsp.yaml").unlink(), r"blsp\.yaml: not there"),
    (lambda folder: (folder / "blsp.yaml").write_text("system: other\n"), "system: 'other' is not the file's name"),
    (lambda folder: (folder / "blsp.yaml").write_text("system: blsp\nlos: {}\n"), r"blsp\.yaml: unknown key 'los'"),
    (lambda folder: (folder / "blsp.yaml").write_text("system: blsp\nmodel: {adapter: conv}\n"),
     r"blsp\.yaml: loss: w_input: needs as many speech tokens"),
    (lambda folder: (folder / "blsp.yaml").write_text("system: blsp\ndata: {operations: [{name: filtre}]}\n"),
     r"blsp\.yaml: data\.operations, entry 1: unknown operation 'filtre'; did you mean 'filter'"),
    (lambda folder: (folder / "text.yaml").write_text("system: text\nreadz: x\nreads: x\n"), "unknown key 'readz'"),
    (lambda folder: (folder / "text.yaml").write_text("system: text\nreads: x\ninference: {snap: hard}\n"),
     r"text\.yaml: inference: 'snap' is none of what may differ"),
    (lambda folder: (folder / "text.yaml").write_text(f"system: text\nreads: {folder}/recogniser\n"),
     r"text\.yaml: reads: there is no recogniser .*conf/recogniser"),
])
def test_every_systems_configuration_is_checked_beforehand(conf_dir, change, message):
    change(conf_dir)
    with pytest.raises(ConfigError, match=message):
        plan(CONFIG, "full", conf_dir, check=resolved)


def test_unknown_budgets_and_references_are_named(conf_dir):
    with pytest.raises(ConfigError, match="no 'huge'; known: full, small"):
        plan(CONFIG, "huge", conf_dir)
    with pytest.raises(ConfigError, match="reference: 'x' is not one of"):
        CompareConfig(systems={"a": 1}, reference="x")
    with pytest.raises(ConfigError, match="'../a: 1' is not a name"):
        CompareConfig(systems={"../a": 1, "blspkd": 1})


BEAMS = "system: beams\nof: blspkd\ninference: {num_beams: 4, do_sample: false}\n"


def test_a_model_is_decoded_otherwise_after_all_trainings_and_not_trained_again(conf_dir):
    (conf_dir / "beams.yaml").write_text(BEAMS)
    (conf_dir / "warm.yaml").write_text("system: warm\nof: beams\ninference: {do_sample: true, temperature: 0.5}\n")
    config = replace(CONFIG, systems={"beams": 2, "warm": 1, **CONFIG.systems})
    runs = plan(config, "full", conf_dir)
    assert [run.name for run in runs[:6]] == [run.name for run in plan(CONFIG, "full", conf_dir)]
    assert [(run.name, run.of, run.inference, run.seed, run.max_steps) for run in runs[6:]] == [
        ("beams-seed0", "blspkd-seed0", "--num_beams=4 --do_sample=false", 0, 0),
        ("warm-seed0", "blspkd-seed0", "--num_beams=4 --do_sample=true --temperature=0.5", 0, 0),
        ("beams-seed1", "blspkd-seed1", "--num_beams=4 --do_sample=false", 1, 0)]
    assert {systems_to_decode(run) for run in runs[6:]} == {"[speech]"} and runs[6].decoded_as == "speech"
    assert [run.name for run in plan(config, "small", conf_dir)][3:] == ["beams-seed0", "warm-seed0"]


def test_the_models_after_the_first_of_two_phases_are_a_system_of_their_own(conf_dir):
    (conf_dir / "blspkd.yaml").write_text("system: blspkd\nalign: {loss: {terms: {embedding: {weight: 1}}}}\n")
    (conf_dir / "aligned.yaml").write_text("system: aligned\nof: blspkd\nphase: align\n")
    (conf_dir / "beams.yaml").write_text(BEAMS.replace("of: blspkd", "of: aligned"))
    runs = plan(replace(CONFIG, systems={"beams": 1, "aligned": 2, **CONFIG.systems}), "full", conf_dir)
    assert [(run.name, run.of) for run in runs if run.of] == [
        ("beams-seed0", "blspkd-seed0/align"), ("aligned-seed0", "blspkd-seed0/align"),
        ("aligned-seed1", "blspkd-seed1/align")]


@pytest.mark.parametrize(("text", "seeds", "message"), [
    (BEAMS + "phase: align\n", 1, r"beams\.yaml: phase: align: 'blspkd' is trained in one phase, without 'align:'"),
    (BEAMS + "phase: first\n", 1, "phase: 'first'"),
    (BEAMS.replace("of: blspkd", "of: blspkb"), 1,
     r"beams\.yaml: of: 'blspkb' is not one of the systems of this budget: beams, text, blsp, blspkd"),
    (BEAMS.replace("of: blspkd", "of: beams"), 1, r"beams\.yaml: of: beams -> beams leads back to itself"),
    (BEAMS.replace("of: blspkd", "of: text"), 1, "of: 'text' reads; name one that listens"),
    (BEAMS.replace("of: blspkd", "of:"), 1, r"beams\.yaml: of: expected str"),
    (BEAMS.replace("num_beams", "num_beam"), 1, "inference: 'num_beam' is none of what may differ: num_beams, "),
    (BEAMS.replace("num_beams: 4", "num_beams: 0"), 1, r"beams\.yaml: inference: num_beams: 0 is less than 1"),
    (BEAMS.replace("num_beams: 4", "num_bootstrap: 9"), 1, "'num_bootstrap' is none of what may differ"),
    (BEAMS.replace("system: beams", "system: other"), 1, "system: 'other' is not the file's name"),
    (BEAMS + "training: {max_steps: 3}\n", 1, "unknown key 'training'"),
    (BEAMS.replace("of: blspkd", "of: blsp").replace("num_beams: 4", "snap: hard"), 1,
     r"beams\.yaml: inference: snap, recount and count: the tokens of 'blsp' stand for no text tokens"),
    (BEAMS.replace("of: blspkd", "of: blsp").replace("num_beams: 4", "count: transcript"), 1,
     r"beams\.yaml: inference: snap, recount and count: the tokens of 'blsp' stand for no text tokens"),
    (BEAMS, 4, "systems: beams: 4 seeds, but 'blspkd', whose models it decodes, has 3"),
])
def test_what_cannot_be_decoded_otherwise_is_told_beforehand(conf_dir, text, seeds, message):
    (conf_dir / "beams.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        plan(replace(CONFIG, systems={"beams": seeds, **CONFIG.systems}), "full", conf_dir)


def test_a_merged_system_mixes_the_models_of_one_seed(conf_dir, tmp_path):
    (conf_dir / "lora.yaml").write_text("base: blspkd.yaml\nsystem: lora\nmodel: {plora_rank: 2}\n")
    (conf_dir / "half.yaml").write_text("system: half\nof: lora\nmerge: {none: 0.3, blspkd: 0.3}\n")
    config = replace(CONFIG, systems={"half": 2, **CONFIG.systems, "lora": 2})
    runs = plan(config, "full", conf_dir)
    merged = runs[-2:]
    assert [(run.name, run.of, run.merge) for run in merged] == [
        (f"half-seed{seed}", f"lora-seed{seed}", f"lora-seed{seed}=0.4 none=0.3 blspkd-seed{seed}=0.3")
        for seed in (0, 1)]
    assert systems_to_decode(merged[0]) == "[speech,text]"  # its LLM was trained
    for run in runs:
        make_run(tmp_path, run, 30)
    measured = measure(runs, "blspkd", tmp_path, DECODE, ["test"])
    assert "alignment" in {one.task for one in measured if one.system == "half"}


@pytest.mark.parametrize(("text", "message"), [
    ("of: blspkd\nmerge: {text: 0.5}", "merge: 'text' is no other system of this budget that is trained with seed 0"),
    ("of: blspkd\nmerge: {blspkd: 0.5}", "merge: 'blspkd' is no other system"),
    ("of: blspkd\nmerge: {blspkb: 0.5}", "merge: 'blspkb' is no other system"),
    ("of: blspkd\nmerge: {blsp: 1.5}", "weights are from 0 to 1, and at most 1 together"),
    ("of: blspkd\nmerge: {blsp: 0.7, none: 0.7}", "weights are from 0 to 1, and at most 1 together"),
    ("of: blspkd\nmerge: {blsp: -0.1}", "weights are from 0 to 1"),
    ("of: blspkd\nmerge: {blsp: half}", "merge.blsp: expected float"),
    ("of: other\n", "of: 'other' is merged; name the system that was trained"),
])
def test_what_cannot_be_merged_is_told_beforehand(conf_dir, text, message):
    (conf_dir / "half.yaml").write_text(f"system: half\n{text}\n")
    (conf_dir / "other.yaml").write_text("system: other\nof: blspkd\nmerge: {none: 0.5}\n")
    with pytest.raises(ConfigError, match=message):
        plan(replace(CONFIG, systems={"half": 1, "other": 1, **CONFIG.systems}), "full", conf_dir)


def test_systems_that_lead_back_to_one_another_are_told(conf_dir):
    (conf_dir / "a.yaml").write_text("system: a\nof: b\n")
    (conf_dir / "b.yaml").write_text("system: b\nof: a\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: of: a -> b -> a leads back to itself"):
        plan(replace(CONFIG, systems={"a": 1, "b": 1, **CONFIG.systems}), "full", conf_dir)
    with pytest.raises(ConfigError, match="chance: 'a' is a system decoded otherwise"):
        plan(replace(CONFIG, systems={"a": 1, **CONFIG.systems}, chance="a"), "full", conf_dir)


def test_what_is_decoded_otherwise_has_rows_and_differences_of_its_own_but_no_cost(conf_dir, tmp_path):
    (conf_dir / "beams.yaml").write_text(BEAMS)
    runs = plan(replace(CONFIG, systems={"beams": 1, **CONFIG.systems}), "small", conf_dir)
    for run in runs:
        make_run(tmp_path, run, 36 if run.of else 30)
        if run.of:
            update_results(tmp_path / run.name / "results.json", [], lambda row: row.task == "cost")
    measured = measure(runs, "blspkd", tmp_path, DECODE, ["test"])
    assert [(one.task, one.metric, one.mean, one.difference) for one in measured if one.system == "beams"] == [
        ("repeat", "exact_match", 90.0, 15.0)]  # alignment is the model's
    assert {one.system for one in measured if one.task == "cost"} == {"blspkd", "blsp"}
    assert "0 training steps to go" in time_left([run for run in runs if run.of], tmp_path / "nowhere", None, 1)


def test_a_budget_may_have_some_of_the_systems(conf_dir):
    budgets = {"full": BudgetConfig(), "few": BudgetConfig(systems=["blspkd", "text"])}
    config = replace(CONFIG, chance="blsp", snapshots=["blsp", "blspkd"], budgets=budgets)
    runs = plan(config, "few", conf_dir)
    assert [run.name for run in runs] == ["blspkd-seed0", "text", "blspkd-seed1", "blspkd-seed2"]
    assert not any(run.chance for run in runs) and runs[0].snapshots == (6, 12, 25)
    assert [run.name for run in plan(config, "full", conf_dir) if run.chance] == ["blsp-seed0"]
    (conf_dir / "beams.yaml").write_text("system: beams\nof: blsp\n")
    config = replace(CONFIG, systems={"beams": 1, **CONFIG.systems},
                     budgets={"few": BudgetConfig(systems=["blspkd", "beams"])})
    with pytest.raises(ConfigError, match="'blsp' is not one of the systems of this budget: beams, blspkd"):
        plan(config, "few", conf_dir)


@pytest.mark.parametrize(("names", "message"), [
    (["blspkd", "blps"], "budgets.few.systems: 'blps' is not one of systems: text, blsp, blspkd"),
    (["text"], "budgets.few.systems: the reference 'blspkd' has to be among them")])
def test_a_budget_knows_its_systems_and_has_the_reference(names, message):
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, budgets={"few": BudgetConfig(systems=names)})


def plan_command(tmp_path, *words):
    (tmp_path / "compare.yaml").write_text("systems: {text: 1, blspkd: 1, blsp: 1}\n")
    (tmp_path / "decode.yaml").write_text("tasks: {repeat: {instruction: Repeat., metrics: [wer]}}\n")
    compare.main(["plan", "--config", str(tmp_path / "compare.yaml"), "--conf_dir", str(tmp_path / "conf"), "--exp_dir",
                  str(tmp_path / "exp"), "--decode_config", str(tmp_path / "decode.yaml"), *words])


@pytest.mark.parametrize(("words", "message"), [
    (["--train_args", "--w_input 1"], "blsp.yaml: loss: w_input"),
    (["--train_args", "--learning_rat 1"], "--learning_rat: unknown option; did you mean 'learning_rate'"),
    (["--num_beam", "2"], "--num_beam: unknown option; did you mean 'num_beams'"),
])
def test_options_of_all_runs_are_checked_beforehand(conf_dir, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        plan_command(tmp_path, *words)
    found = capsys.readouterr()
    assert message in found.err and not found.out


def test_a_plan_has_a_line_a_run_and_warns_of_other_folders(conf_dir, tmp_path, capsys, caplog):
    for name in ("blspkd-seed0", "blspkd-seed1", "old+one", "log", ".done"):
        (tmp_path / "exp" / name).mkdir(parents=True)
    (tmp_path / "exp" / "plan.tsv").touch()
    plan_command(tmp_path, "--train_args", "--max_steps 8 --bf16 false", "--num_beams", "2")
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[5], line[6]) for line in lines] == [
        ("blspkd-seed0", "8", "[speech,chance]"), ("text", "0", "[text]"), ("blsp-seed0", "8", "[speech]")]
    assert "no run of this plan, and in no table: blspkd-seed1, old+one" in caplog.text


def test_chance_is_of_one_run_whatever_is_compared_with_what(conf_dir, tmp_path):
    runs = plan(CONFIG, "full", conf_dir)
    assert [run.name for run in runs if run.chance] == ["blspkd-seed0"]
    assert {run.name: systems_to_decode(run) for run in runs if run.system != "text"} == {
        run.name: systems_to_decode(run) for run in plan(replace(CONFIG, reference="blsp"), "full", conf_dir)
        if run.system != "text"}
    assert systems_to_decode(runs[0]) == "[speech,chance]" and systems_to_decode(runs[2]) == "[speech]"
    for run in runs:  # some have rows from when it was another
        make_run(tmp_path, run, 30, chance=run.name in ("blspkd-seed0", "blspkd-seed1", "blsp-seed0"))
    [chance] = [one for one in measure(runs, "blsp", tmp_path, DECODE, ["test"]) if one.system == "chance"]
    assert len(chance.values) == 1
    assert [row.seed for row in all_rows(runs, tmp_path) if row.system == "chance"] == [0]
    assert not any(run.chance for run in plan(replace(CONFIG, chance=""), "full", conf_dir))
    with pytest.raises(ConfigError, match="chance: 'text' reads"):
        plan(replace(CONFIG, chance="text"), "full", conf_dir)
    with pytest.raises(ConfigError, match="chance: 'x' is not one of systems"):
        replace(CONFIG, chance="x")


def test_means_and_differences(conf_dir, tmp_path):
    runs = plan(CONFIG, "full", conf_dir)
    for run, right in zip(runs, [30, 40, 10, 31, 11, 32], strict=True):
        make_run(tmp_path, run, right, chance=run.name == "blspkd-seed0")
    measured = measure(runs, "blspkd", tmp_path, DECODE, ["test"])
    found = {(one.system, one.task, one.metric): one for one in measured}
    blsp, text = found["blsp", "repeat", "exact_match"], found["text", "repeat", "exact_match"]
    assert blsp.mean == 26.25 and blsp.values == [25, 27.5] and blsp.difference == pytest.approx(26.25 - 77.5)
    assert blsp.significant and blsp.p < 0.05 and blsp.difference_ci95[0] < blsp.difference < blsp.difference_ci95[1]
    assert text.difference == pytest.approx(22.5)
    reference = found["blspkd", "repeat", "exact_match"]
    assert reference.difference is None and not reference.significant
    assert found["chance", "repeat", "exact_match"].difference is None
    assert found["blsp", "alignment", "count_accuracy"].difference == pytest.approx(26.25 - 77.5)
    assert found["blsp", "cost", "wall_s"].difference is None

    comparison = Comparison("blspkd", "full", 50, measured, [Snapshot("blspkd", 6, "test", "repeat", "wer", 9.0)])
    write_comparison(tmp_path / "comparison.json", comparison)
    assert read_comparison(tmp_path / "comparison.json") == comparison
    assert len(all_rows(runs, tmp_path)) == 3 * 3 + 1 + 1 + 2 * 3
    page = comparison_page.markdown(comparison)
    assert "| BLSP (2 seeds) | 26.2 [25.0 - 27.5] (-51.2**) | 26.2 [25.0 - 27.5] (-51.2**) |" in page
    assert "### Cost: train" in page
    assert "| count accuracy | +1.00 (n=5) |" in page  # here the same flags: one orders the models as the other does
    shown = comparison_page.screen(comparison)
    assert "BLSP (2 seeds)" in shown and "-51.2*" in shown


def test_systems_are_compared_with_their_controls_too(conf_dir, tmp_path):
    runs = plan(CONFIG, "full", conf_dir)
    for run, right in zip(runs, [30, 40, 10, 31, 11, 32], strict=True):
        make_run(tmp_path, run, right, chance=run.name == "blspkd-seed0")
    measured = measure(runs, "blspkd", tmp_path, DECODE, ["test"])
    controls = measure_controls(measured, runs, {"blspkd": "blsp", "blsp": "text"}, tmp_path, DECODE)
    found = {(one.system, one.control, one.metric): one for one in controls}
    # the reference has a difference here; costs and what typed text does not have (counts) have none
    assert found.keys() == {("blspkd", "blsp", "exact_match"), ("blspkd", "blsp", "count_accuracy"),
                            ("blsp", "text", "exact_match")}
    [turned] = [one for one in measured if (one.system, one.metric) == ("blsp", "exact_match")]
    one = found["blspkd", "blsp", "exact_match"]
    assert one.difference == pytest.approx(-turned.difference) and one.significant_of_many
    assert found["blsp", "text", "exact_match"].difference == pytest.approx(26.25 - 100)
    comparison = Comparison("blspkd", "full", 50, measured, [], controls)
    write_comparison(tmp_path / "comparison.json", comparison)
    assert read_comparison(tmp_path / "comparison.json") == comparison
    page = comparison_page.markdown(comparison)
    low, high = one.difference_ci95
    cell = f"+51.2 [{low:+.1f}, {high:+.1f}]**"
    assert "### Against their controls" in page and f"| BLSP-KD | BLSP | {cell} | {cell} |" in page
    assert "controls" not in comparison_page.markdown(replace(comparison, controls=[]))


def test_controls_are_systems_and_leave_with_them():
    config = replace(CONFIG, controls={"blsp": "text", "blspkd": "blsp"},
                     budgets={"few": BudgetConfig(systems=["blsp", "blspkd"])})
    assert config.of_budget("few").controls == {"blspkd": "blsp"}
    with pytest.raises(ConfigError, match="controls: 'blsb' is not one of systems"):
        replace(CONFIG, controls={"blsp": "blsb"})


def test_the_legend_says_that_seeds_count_for_nothing_where_there_is_one():
    once = Measured("blspkd", "test", "translate", "bleu", [30.0], 9, [20.0, 40.0])
    pages = [" ".join(comparison_page.screen(Comparison("blspkd", "small", 9, [one])).split())
             for one in (once, replace(once, values=[30.0, 31.0]))]
    assert ["every system was trained once" in page for page in pages] == [True, False]


def test_sets_of_few_utterances_are_not_tested_and_that_is_said(conf_dir, tmp_path):
    runs = plan(CONFIG, "full", conf_dir)
    for run, right in zip(runs, [0, 5, 0, 0, 0, 0], strict=True):
        make_run(tmp_path, run, right, n=5)
    comparison = Comparison("blspkd", "full", 50, measure(runs, "blspkd", tmp_path, DECODE, ["test"]))
    [text] = [one for one in comparison.measured if (one.system, one.metric) == ("text", "exact_match")]
    assert (text.difference, text.difference_ci95, text.p, text.p_holm) == (100.0, None, None, None)
    write_comparison(tmp_path / "comparison.json", comparison)
    assert read_comparison(tmp_path / "comparison.json") == comparison
    page = comparison_page.markdown(comparison)
    assert "100.0 (+100.0) |" in page and "fewer than 6 utterances are not tested" in page


def test_two_stars_are_for_what_is_significant_among_many(conf_dir, tmp_path):
    runs = plan(CONFIG, "full", conf_dir)
    for run, right in zip(runs, [30, 40, 26, 31, 27, 32], strict=True):
        make_run(tmp_path, run, right)
    measured = [one for one in measure(runs, "blspkd", tmp_path, DECODE, ["test"]) if one.task == "repeat"]
    p = {one.system: one.p for one in measured if one.p is not None}
    assert p.keys() == {"text", "blsp"}
    assert {one.system: one.p_holm for one in measured if one.p_holm is not None} == dict(
        zip(p, holm(list(p.values())), strict=True))
    base = Measured("blsp", "test", "repeat", "wer", [5.0], 9, [0.0, 9.0], 2.0, [1.0, 3.0], 0.01)
    shown = [comparison_page.screen(Comparison("blspkd", "full", 9, [replace(base, p_holm=p_holm)]))
             for p_holm in (0.01, 0.3)]
    assert "(+2.0**)" in shown[0] and "(+2.0*)" in shown[1] and "Holm" in shown[0]


def test_types_of_questions_have_a_table_of_their_own(conf_dir, tmp_path):
    runs = plan(CONFIG, "small", conf_dir)
    for run in runs:
        make_run(tmp_path, run, 30)
        update_results(tmp_path / run.name / "results.json",
                       [Row(run.system, "test", "repeat:who", "exact_match", 50.0, [0.0, 100.0], 3, run.seed, "s")],
                       lambda row: False)
    comparison = Comparison("blspkd", "small", 7, measure(runs, "blspkd", tmp_path, DECODE, ["test"]))
    assert {one.difference for one in comparison.measured if one.task == "repeat:who"} == {None}
    page = comparison_page.markdown(comparison)
    assert "### repeat by type of question: test\n\n| system | repeat:who exact match (n=3) |" in page
    assert page.count("repeat:who") == 1 and "repeat:who" not in comparison_page.screen(comparison)


def test_parts_by_the_number_of_tokens_have_a_table_whose_cells_say_how_many(conf_dir, tmp_path):
    runs = plan(CONFIG, "small", conf_dir)
    for run, n in zip(runs, (3, 4, 5), strict=True):
        make_run(tmp_path, run, 30)
        update_results(tmp_path / run.name / "results.json",
                       [Row(run.system, "test", "repeat:tokens=right", "exact_match", 50.0, [0.0, 100.0], n, run.seed,
                            "s")] * (not run.reads), lambda row: False)
    comparison = Comparison("blspkd", "small", 7, measure(runs, "blspkd", tmp_path, DECODE, ["test"]))
    page = comparison_page.markdown(comparison)
    assert "### repeat by the number of speech tokens: test\n\nRight: " in page
    assert "| system | repeat:tokens=right exact match |" in page and "by type of question" not in page
    assert "| BLSP-KD | 50.0 (n=3) |" in page and "| BLSP | 50.0 (n=5) |" in page
    assert "tokens=" not in comparison_page.screen(comparison)


def test_snapshots_of_the_plan_are_read_where_they_have_results(conf_dir, tmp_path):
    runs = plan(replace(CONFIG, snapshots=["blsp", "text"]), "full", conf_dir)
    assert {run.name: run.snapshots for run in runs if run.snapshots} == {"blsp-seed0": (6, 12, 25)}
    folder = tmp_path / "blsp-seed0" / "snapshots"
    for step in (6, 7, 25):  # 7: of another plan; 12 was not measured
        (folder / str(step)).mkdir(parents=True)
        write_results(folder / str(step) / "results.json", [
            Row(system, name, task, "exact_match", float(step), [0.0, 1.0], 4, 0, "s")
            for system, name, task in (("blsp", "test", "repeat"), ("text", "test", "repeat"),
                                       ("blsp", "other", "repeat"), ("blsp", "test", "repeat:who"))])
    assert measure_snapshots(runs, tmp_path, ["test"]) == [
        Snapshot("blsp", step, "test", "repeat", "exact_match", step) for step in (6, 25)]


def test_output_health_of_the_first_task_stands_below_alignment():
    measured = [Measured(system, name, task, metric, [value, value + 2], 9, [0.0, 1.0])
                for task, metric, value in (("alignment", "input_kl", 0.5), ("mean of tasks", "exact_match", 55.0),
                                            ("translate", "bleu", 50.0),
                                            ("translate", "looped", 3.0), ("translate", "empty", 1.0),
                                            ("qa", "exact_match", 60.0), ("qa", "empty", 7.0), ("cost", "wall_s", 8.0))
                for name in (("unheard", "heard") if task == "alignment" else ("heard", "unheard"))
                for system in ("blspkd", "text")]
    page = comparison_page.markdown(Comparison("blspkd", "full", 9, measured))
    titles = [line for line in page.splitlines() if line.startswith("### ")]
    assert titles[2:7] == ["### Alignment: heard", "### Alignment: unheard", "### Output health of translate: heard",
                           "### Output health of translate: unheard", "### Cost: heard"]
    assert "| system | empty | looped |" in page and "| BLSP-KD (2 seeds) | 2.0 [1.0 - 3.0] | 4.0 [3.0 - 5.0] |" in page
    assert page.count("nothing but punctuation") == 1 and "8.0 [7.0" not in page
    assert "looped" not in comparison_page.screen(Comparison("blspkd", "full", 9, measured))


def predictions(num_systems, snapshots=()):
    """A comparison where input KL orders the systems as the task does, backwards, and the count hardly."""
    measured = [Measured(f"s{i}", "test", task, metric, [value], 9, [0.0, 1.0]) for i in range(num_systems)
                for task, metric, value in (("repeat", "exact_match", 5.0 * i), ("alignment", "input_kl", 20.0 - i),
                                            ("alignment", "count_accuracy", float(i % 3)))]
    return comparison_page.markdown(Comparison("s0", "full", 9, measured, list(snapshots)))


def test_correlations_are_over_finished_models_and_over_snapshots_too():
    before = [Snapshot("s1", step, "test", task, metric, value) for step in (2, 4)
              for task, metric, value in (("repeat", "exact_match", 1.0 * step),
                                          ("alignment", "input_kl", 30.0 * step))]
    page = predictions(9, before)
    assert page.count("### What alignment predicts\n") == 1 and "#### test\n\n| measure |" in page
    assert "| input KL | -1.00 (n=9); -0.96 (n=11) |" in page
    assert "also over what chosen trainings were at earlier steps" in page
    alone = predictions(9)
    assert "| input KL | -1.00 (n=9) |" in alone and "earlier steps" not in alone


def test_a_sentence_says_which_measure_predicts_most_where_there_are_enough_points():
    assert "input KL (1.00, n=12) goes with the scores most closely, count accuracy (0.2" in predictions(12)
    assert "most closely" not in predictions(9)


def test_runs_that_are_not_done_or_saw_other_utterances_are_named(conf_dir, tmp_path):
    runs = [run for run in plan(CONFIG, "small", conf_dir) if run.name != "text"]
    make_run(tmp_path, runs[0], 30)
    with pytest.raises(DataError, match="blsp-seed0/results.json: missing"):
        measure(runs, "blspkd", tmp_path, DECODE, ["test"])
    make_run(tmp_path, runs[1], 10, n=39)
    with pytest.raises(DataError, match="other utterances than those of blspkd-seed0"):
        measure(runs, "blspkd", tmp_path, DECODE, ["test"])


def test_the_time_left_is_told_by_what_is_done(tmp_path):
    runs = [Run("a-seed0", "a", tmp_path, 0, max_steps=100), Run("b-seed0", "b", tmp_path, 0, max_steps=100),
            Run("text", "text", tmp_path, None, "transcript")]
    assert "0 of them done; 200 training steps to go, 2 at a time; the first" in time_left(runs, tmp_path, None, 2)
    before = tmp_path / "train"
    (before / ".done").mkdir(parents=True)
    (before / ".done/train.json").write_text('{"finished": "x", "seconds": 60}')
    (before / "checkpoint-30").mkdir()
    (before / "checkpoint-30/trainer_state.json").write_text('{"global_step": 30}')
    assert "about 6 min 40 s for the training" in time_left(runs, tmp_path, before, 2)
    done = tmp_path / "a-seed0/.done"
    done.mkdir(parents=True)
    (done / "train.json").write_text('{"finished": "x", "seconds": 90}')
    (done / "results.json").write_text('{"finished": "x", "seconds": 10}')
    assert "1 of them done; 100 training steps to go, 2 at a time: about 50 s" in time_left(runs, tmp_path, before, 2)


def test_agreement_is_compared_with_the_run_that_reads_transcripts(conf_dir, tmp_path):
    metrics = ["exact_match", "agreement_exact"]
    decoding = DecodeConfig(tasks={"repeat": TaskConfig("Repeat.", metrics)}, num_bootstrap=200)
    runs = plan(CONFIG, "small", conf_dir)
    for run, right in zip(runs, (36, 40, 20), strict=True):
        make_run(tmp_path, run, right)
        if not run.reads:
            row = Row(run.system, "test", "repeat", "agreement_exact", right * 2.5, [0, 100], 40, 0, "s")
            update_results(tmp_path / run.name / "results.json", [row], lambda row: False)
    measured = {one.system: one for one in measure(runs, "blspkd", tmp_path, decoding, ["test"])
                if one.metric == "agreement_exact"}
    assert measured["blsp"].difference == -40 and measured["blsp"].significant
    assert "text" not in measured


def test_agreement_without_a_system_that_reads_transcripts_is_told_beforehand(conf_dir):
    agreement = DecodeConfig(tasks={"repeat": TaskConfig("Repeat.", ["agreement_chrf"])})
    runs = plan(CONFIG, "small", conf_dir)
    check_typed(runs, agreement, "decode.yaml")
    listening = [run for run in runs if not run.reads]
    check_typed(listening, DECODE, "decode.yaml")
    with pytest.raises(ConfigError, match=r"decode\.yaml: tasks\.repeat measures agreement .* `reads: transcript`"):
        check_typed(listening, agreement, "decode.yaml")
