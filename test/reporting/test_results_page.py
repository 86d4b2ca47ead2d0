"""What is printed on the screen, and RESULTS.md."""

import os
import platform
import re
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from blspkd.errors import DataError
from blspkd.evaluation.results import Row, question_types
from blspkd.reporting.environment import describe_environment, git_commit, without_machine_paths
from blspkd.reporting.results_page import Page, StageTime, duration, read_stage_times, screen, write_page
from blspkd.reporting.tables import (
    arrange,
    markdown,
    markdown_errors,
    markdown_health,
    markdown_others,
    markdown_parts,
    system_label,
)


def row(system, name, task, metric, value, seed=0, n=200):
    return Row(system, name, task, metric, value, [value - 1, value + 1], n, seed, f"signature of {metric}")


@pytest.fixture
def rows():
    found = []
    for name in ("test_heard", "test_unheard"):
        for system, bleu, exact, wer in (("blspkd", 85.7, 95.5, 2.4), ("chance", 1.6, 2.1, 101.3),
                                         ("text", 98.8, 99.9, 1.0)):
            found += [row(system, name, "translate", "bleu", bleu), row(system, name, "qa", "exact_match", exact),
                      row(system, name, "repeat", "wer", wer), row(system, name, "repeat", "wer_sub", 1.0),
                      row(system, name, "repeat", "wer_del", 0.3), row(system, name, "repeat", "wer_ins", 0.2),
                      row(system, name, "repeat", "wer_sent", 5.0)]
        found.append(row("blspkd", name, "alignment", "count_accuracy", 76.5))
    return found


@pytest.fixture
def page(rows):
    example = {"set": "test_heard", "task": "qa", "utt_id": "f1-003", "transcript": "mary bought ten_apples",
               "instruction": "How many?", "reference": "ten",
               "answers": {"text": "ten", "chance": "", "blspkd": "a|b"}}
    times = [StageTime("1", "data", 75.2, 812.0, "2026-01-31T12:00:00"),
             StageTime("3", "train", 3900, None, "2026-01-31T13:00:00")]
    return Page(rows, [example], times)


def test_the_screen_shows_every_number_within_100_columns(page):
    text = screen(page)
    assert max(map(len, text.splitlines())) <= 100
    for number in ("98.8", "85.7", "101.3", "(84.7-86.7)", "n=200", "test_unheard", "translate BLEU", "qa exact match",
                   "repeat WER", "76.5", "1 min 15 s", "812 MiB", "mary bought ten_apples", "How many?", "(nothing)"):
        assert number in text
    systems = [line.split()[0] for line in text.splitlines() if line[:1].isalpha()]
    assert systems[:3] == ["text", "chance", "BLSP-KD"]


def test_columns_are_aligned(page):
    header, values = (next(line for line in screen(page).splitlines() if line.strip().startswith(start))
                      for start in ("test_heard", "text "))
    ends = [i for i, c in enumerate(header, 1) if c != " " and header[i:i + 1] in ("", " ")]
    assert len(ends) == 6
    assert all(values[end - 1] != " " and values[end:end + 1] in ("", " ") for end in ends)


def test_missing_combinations_show_as_a_dash(rows):
    rows = [r for r in rows if (r.system, r.set, r.metric) != ("chance", "test_heard", "bleu")]
    rows.append(row("cascade", "test_heard", "qa", "exact_match", 90.0))
    text = screen(Page(rows, [], []))
    assert next(line for line in text.splitlines() if line.startswith("chance")).split()[1:3] == ["-", "1.6"]
    assert next(line for line in text.splitlines() if line.startswith("cascade")).split() == [
        "cascade", "-", "-", "90.0", "-", "-", "-"]
    table = markdown(arrange(rows, ["bleu"]))
    assert "| chance | - | 1.6 [0.6, 2.6] |" in table and "cascade" not in table


def test_tables_too_wide_for_the_screen_go_on_below(rows):
    rows += [row("blspkd", f"{name}_with_a_long_name", "translate", "bleu", 5.0) for name in ("one", "two", "three")]
    text = screen(Page(rows, [], []))
    assert text.count("95% interval") > 1
    assert "three_with_a_long_name" in text and text.count("repeat WER") == 1


def test_the_first_metric_of_every_task_comes_before_further_ones(rows):
    further = [row("text", name, "translate", "chrf", 90.0) for name in ("test_heard", "test_unheard")]
    first, second = screen(Page(rows[:1] + further + rows[1:], [], [])).split("\n\n")[:2]
    assert all(title in first for title in ("translate BLEU", "qa exact match", "repeat WER"))
    assert "translate chrF" in second and "BLSP-KD" in second


def test_sets_stand_in_the_order_of_the_tasks():
    """Whatever was measured last stands first in results.json."""
    found = [row("blspkd", name, "alignment", "count_accuracy", 1.0) for name in "ba"]
    found += [row("blspkd", name, "qa", "exact_match", 1.0) for name in "ab"]
    assert [name for _, _, name in arrange(found, ["count_accuracy"]).columns] == ["a", "b"]


def test_no_rows_at_all_is_said():
    assert screen(Page([], [], [])) == "no results yet"
    assert markdown(arrange([], ["bleu"])) == ""


def test_seeds_are_told_apart_only_where_there_are_several(rows):
    rows += [row("blspkd", "test_heard", "translate", "bleu", 80.0, seed=1)]
    text = screen(Page(rows, [], []))
    assert "BLSP-KD (seed 1)" in text and "text (seed" not in text


def test_different_numbers_of_utterances_are_not_hidden(rows):
    rows += [row("cascade", "test_heard", "translate", "bleu", 80.0, n=150)]
    assert "n=150-200" in screen(Page(rows, [], []))


def test_errors_as_espnet_shows_them(rows):
    lines = markdown_errors(rows).splitlines()
    assert lines[0] == "| system/task/set | rate | Snt | Corr | Sub | Del | Ins | Err | S.Err |"
    assert "| BLSP-KD/repeat/test_heard | WER | 200 | 98.7 | 1.0 | 0.3 | 0.2 | 2.4 | 5.0 |" in lines


def test_other_measurements_are_shown_too(rows):
    rows += [row("blspkd", "test_heard", "cost", "peak_mib", 812.0)]
    table = markdown_others(rows)
    assert "peak mib" in table and "count accuracy" in table and "wer" not in table


def test_types_of_questions_have_a_table_of_their_own_and_are_in_no_other(page):
    types = [row(system, name, f"qa:{word}", metric, value, n=n) for name in ("test_heard", "test_unheard")
             for system, value in (("blspkd", 90.0), ("text", 97.5)) for word, n in (("who", 3), ("when|", 197))
             for metric in ("exact_match", "wer")]
    with_types = replace(page, rows=page.rows + types)
    assert screen(with_types) == screen(page)
    for function in (markdown_errors, markdown_health, markdown_others):
        assert function(with_types.rows) == function(page.rows)
    first, second = markdown_parts(question_types(with_types.rows)).split("\n\n")
    assert ("| qa:who exact match<br>test_heard, n=3 |" in first
            and "qa:when\\| exact match<br>test_heard, n=197" in first)
    assert "| text | 97.5 [96.5, 98.5] |" in second and "test_heard" not in second
    assert markdown_parts(question_types(page.rows)) == ""


def test_parts_by_the_number_of_tokens_have_a_section_of_their_own(page, tmp_path):
    rows = [*page.rows, row("blspkd", "test_heard", "qa:tokens=right", "exact_match", 90.0, n=7)]
    assert markdown_parts(question_types(rows)) == "" and screen(replace(page, rows=rows)) == screen(page)
    write_page(tmp_path / "a.md", replace(page, rows=rows), [], "c", "x")
    text = (tmp_path / "a.md").read_text()
    assert "## By the number of speech tokens" in text and "By type of question" not in text

    assert "| qa:tokens=right exact match<br>test_heard, n=7 |" in text


def test_results_page_shows_types_of_questions_below_the_tasks(page, tmp_path):
    write_page(tmp_path / "a.md", page, [], "c", "x")
    rows = [*page.rows, row("blspkd", "test_heard", "qa:who", "exact_match", 90.0)]
    write_page(tmp_path / "b.md", replace(page, rows=rows), [], "c", "x")
    title = "## By type of question"
    before, after = ((tmp_path / name).read_text() for name in ("a.md", "b.md"))
    assert title not in before and after.index("## Tasks") < after.index(title) < after.index("## Token-count")
    assert after.partition(title)[0] == before.partition("## Token-count")[0]


def test_output_health_has_a_table_of_its_own(rows):
    rows += [row("blspkd", "test_heard", "qa", metric, value) for metric, value in (("empty", 1.0), ("copied", 2.5))]
    assert "| BLSP-KD/qa/test_heard | 1.0 | - | 2.5 | - | - |" in markdown_health(rows)
    assert "copied" not in markdown_others(rows)


def test_divergences_are_shown_with_three_decimals(rows):
    assert "0.123 [" in markdown_others([*rows, row("blspkd", "test_heard", "alignment", "input_kl", 0.12345)])


@pytest.mark.parametrize("metric", ["kl_to_base", "max_state_diff"])
@pytest.mark.parametrize("value, shown", [
    (0.0, "0 [0, 0]"), (3e-5, "3.00e-05 [3.00e-05, 3.00e-05]"), (0.01234, "0.0123 [0.0123, 0.0123]"),
    (2.0, "2 [2, 2]")])
def test_a_small_drift_is_not_shown_as_none(metric, value, shown):
    drift = Row("blspkd+lora", "test_heard", "text", metric, value, [value, value], 4, 0, "")
    assert f"| {shown} |" in markdown_others([drift])


@pytest.mark.parametrize("name, label", [
    ("blspkd", "BLSP-KD"), ("blspkd+plora", "BLSP-KD+plora"), ("blsp", "BLSP"), ("cascade", "cascade"),
    ("text", "text"),
])
def test_labels(name, label):
    assert system_label(name) == label


@pytest.mark.parametrize("seconds, text", [
    (3.4, "3 s"), (59.6, "1 min 00 s"), (75.2, "1 min 15 s"), (3900, "1 h 05 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_results_page_holds_what_a_reader_needs(page, tmp_path):
    path = tmp_path / "RESULTS.md"
    write_page(path, page, describe_environment(), "0123abc", "./run.sh --stage 1", "# Mini\n\nA toy language.\n")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Mini\n\nA toy language.\n")
    for part in ("python", platform.python_version(), "transformers", "torch", "cores", "GPU", "0123abc",
                 "./run.sh --stage 1", "training seed: 0", "| 1 data | 1 min 15 s | 812 |",
                 "| 3 train | 1 h 05 min | - |", "1 h 06 min", "signature of bleu", "85.7 [84.7, 86.7]", "n=200",
                 "count accuracy", "ten_apples", "How many?", "a\\|b", "(nothing)", "date: 2026-01-31T13:00:00"):
        assert part in text, part
    assert list(tmp_path.iterdir()) == [path]


def test_results_page_names_neither_host_nor_machine_paths(page, tmp_path):
    path = tmp_path / "RESULTS.md"
    command = without_machine_paths(["./run.sh", "--expdir", str(tmp_path / "exp"), "--llm", "/models/of/mine/llm",
                                     "--train_args=/a/b", "--inference_args", "--tmp /x/y --n 1"], tmp_path)
    write_page(path, page, describe_environment(), git_commit(Path.cwd()), command)
    text = path.read_text(encoding="utf-8")
    assert socket.gethostname() not in re.findall(r"[\w.-]+", text)
    assert str(tmp_path) not in text and os.path.expanduser("~") + "/" not in text
    assert command == "./run.sh --expdir exp --llm llm --train_args=b --inference_args '--tmp y --n 1'"


def test_what_data_holds_is_neither_markup_nor_template(page, tmp_path):
    mark = "# a | <b>\n\n## c {{ 7 * 7 }} {% raw %} {# no #}"
    example = {**page.examples[0], "transcript": mark, "reference": mark, "answers": {"blspkd": mark}}
    write_page(tmp_path / "RESULTS.md", replace(page, examples=[example]), [], "c", "x")
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count("# a \\| \\<b\\> ## c {{ 7 \\* 7 }} {% raw %} {# no #}\n") == 3


def test_a_page_without_times_examples_or_preamble_has_no_empty_sections(rows, tmp_path):
    write_page(tmp_path / "RESULTS.md", Page(rows, [], []), [], "c", "x")
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.startswith("# Results\n") and "## Examples" not in text and "## Time" not in text


def test_stage_times_keep_the_last_run_of_a_stage_in_order(tmp_path):
    path = tmp_path / "times"
    path.write_text("3\ttrain\t60\t-\t2026-01-31\n1\tdata\t5.5\t100.5\t2026-01-30\n\n3\ttrain\t70\t\t2026-02-01\n")
    assert read_stage_times(path) == [StageTime("1", "data", 5.5, 100.5, "2026-01-30"),
                                      StageTime("3", "train", 70.0, None, "2026-02-01")]
    assert read_stage_times(None) == read_stage_times(tmp_path / "nosuch") == []
    path.write_text("1\tdata\tlong\t1\tx\n")
    with pytest.raises(DataError, match="times:1"):
        read_stage_times(path)


def test_the_commit_says_whether_files_were_changed(tmp_path):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=tmp_path, check=True,
                       capture_output=True)

    assert git_commit(tmp_path).startswith("unknown")
    git("init")
    (tmp_path / "code").write_text("1")
    (tmp_path / "RESULTS.md").write_text("1")
    git("add", ".")
    git("commit", "-m", "x")
    clean = git_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "RESULTS.md").write_text("2")
    assert git_commit(tmp_path, but=[tmp_path / "RESULTS.md"]) == clean
    (tmp_path / "code").write_text("2")
    assert git_commit(tmp_path, but=[tmp_path / "RESULTS.md"]) == f"{clean} (with local changes)"
