"""The matrix of scores by year of training and of test, from decoded experiments."""

import json
from pathlib import Path

import pytest
import yaml

from blspkd.bin.years import main
from blspkd.errors import ConfigError, DataError
from blspkd.evaluation.by_year import same_and_other_years, scores_by_year, trained_years
from blspkd.evaluation_config import DecodeConfig, TaskConfig

YEARS = {"u1": "2019", "u2": "2019-05", "u3": "2020-01-31", "u4": "2020", "u5": "2020", "u6": "2021"}
RIGHT = {"exp2019": {"u1", "u2", "u3", "u4"}, "exp2020": {"u1", "u3", "u4", "u5"}, "exp_all": set(YEARS)}
TRAINED = {"exp2019": [2019], "exp2020": ["2020"], "exp_all": []}
CONFIG = DecodeConfig(tasks={"qa": TaskConfig("Answer.", ["exact_match"])}, num_bootstrap=50)


@pytest.fixture
def exps(tmp_path) -> Path:
    """Two sets, three experiments that answer some questions."""
    sets = {"test_a": ["u1", "u3", "u5"], "test_b": ["u2", "u4", "u6"]}
    for name, ids in sets.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "utt2date").write_text("".join(f"{utt_id} {YEARS[utt_id]}\n" for utt_id in ids))
    for exp, right in RIGHT.items():
        operations = [{"name": "mix", "weights": {}}, {"name": "filter", "years": TRAINED[exp]}]
        for name, ids in sets.items():
            folder = tmp_path / exp / f"decode_qa_{name}"
            folder.mkdir(parents=True)
            rows = [{"utt_id": utt_id, "hypothesis": "six" if utt_id in right else "ten", "reference": "six"}
                    for utt_id in ids]
            (folder / "hyp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (folder / "decode.json").write_text("{}")
        (tmp_path / exp / "config.yaml").write_text(yaml.safe_dump({"system": "blspkd", "data": {
            "operations": operations}}))
    (tmp_path / "decode.yaml").write_text("tasks: {qa: {instruction: Answer., metrics: [exact_match]}}\n"
                                          "num_bootstrap: 50\n")
    return tmp_path


def test_a_cell_is_the_score_of_the_utterances_of_its_year(exps):
    for exp, right in RIGHT.items():
        row = scores_by_year(exps / exp, CONFIG, "qa", "exact_match", ["test_a", "test_b"], exps / "data")
        for year in (2019, 2020, 2021):
            ids = [utt_id for utt_id, date in YEARS.items() if date.startswith(str(year))]
            assert row.scores[year].value == pytest.approx(100 * sum(u in right for u in ids) / len(ids))
            assert row.scores[year].n == len(ids)
        assert list(row.scores) == [2019, 2020, 2021]
        assert row.trained_on == tuple(map(int, TRAINED[exp])) and row.name == exp


def test_the_command_prints_the_matrix(exps, capsys):
    words = ["--config", str(exps / "decode.yaml"), "--test_sets", "test_a test_b", "--task", "qa", "--data_dir",
             str(exps / "data"), "--output", str(exps / "years.md"), "--exp_dirs", *(str(exps / exp) for exp in RIGHT)]
    main(words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| qa, exact match | trained on | 2019 (n=2) | 2020 (n=3) | 2021 (n=1) |"
    cells = [[cell.split(" (")[0].strip(" *") for cell in line.split("|")[2:-1]] for line in lines[2:5]]
    assert cells == [["2019", "100.0", "66.7", "0.0"], ["2020", "50.0", "100.0", "0.0"],
                     ["unknown", "100.0", "100.0", "100.0"]]
    assert [[cell.strip().startswith("**") for cell in line.split("|")[3:-1]] for line in lines[2:5]] == [
        [True, False, False], [False, True, False], [False] * 3]
    # of 6 cells whose training is known: (100 + 100) / 2, and (66.7 + 0 + 50 + 0) / 4
    assert lines[-1] == "Mean over cells: 100.0 in years of the own training (bold), 29.2 in others."
    assert (exps / "years.md").read_text().splitlines() == lines
    assert json.loads((exps / "years.md.json").read_text())[1]["scores"]["2020"]["value"] == 100


def test_one_model_alone_has_one_row_and_no_mean(exps, capsys):
    main(["--config", str(exps / "decode.yaml"), "--test_sets", "test_a", "--task", "qa", "--data_dir",
          str(exps / "data"), "--exp_dirs", str(exps / "exp_all")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "2021" not in lines[0]
    row = scores_by_year(exps / "exp_all", CONFIG, "qa", "exact_match", ["test_a"], exps / "data")
    assert same_and_other_years([row]) is None


def test_several_filters_let_in_what_all_of_them_do(tmp_path):
    operations = [{"name": "filter", "years": [2019, 2020]}, {"name": "filter", "years": [2020, 2021]},
                  {"name": "filter", "max_duration": 3}]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": {"operations": operations}}))
    assert trained_years(tmp_path) == (2020,)


def test_what_is_missing_is_told(exps):
    def score(exp="exp_all", task="qa", metric="exact_match", sets=("test_a",)):
        return scores_by_year(exps / exp, CONFIG, task, metric, sets, exps / "data")

    with pytest.raises(ConfigError, match="task: there is no 'qq'; known: qa"):
        score(task="qq")
    with pytest.raises(ConfigError, match="metrics: there is no 'exact'; did you mean 'exact_match'"):
        score(metric="exact")
    with pytest.raises(DataError, match="decode_qa_test_c: is not there; decode first"):
        score(sets=("test_c",))
    (exps / "exp_all/config.yaml").unlink()
    with pytest.raises(DataError, match="config.yaml: missing; train first"):
        score()
    (exps / "data/test_a/utt2date").write_text("u1 2019\n")
    with pytest.raises(DataError, match="utt2date: 2 utterances have no line, the first is u3"):
        score()
