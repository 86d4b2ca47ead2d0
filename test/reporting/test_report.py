"""The page: self-contained, complete, escaped, and small enough; what is not there is left out."""

import base64
import json
import re
import shutil
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import yaml
from markupsafe import escape
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from blspkd.bin import report
from blspkd.evaluation.results import Row, update_results, write_results
from blspkd.kaldi.data_dir import write_table
from blspkd.reporting import cards, figures
from blspkd.reporting.clouds import clouds
from blspkd.reporting.figures import BANDS, palette, spectrogram
from blspkd.reporting.learning_curves import incomparable, read_curves, read_loss_settings
from blspkd.reporting.pages import environment
from blspkd.reporting.report_data import all_rows, read_answers, read_experiments, worst
from blspkd.reporting.tables import arrange, value_text

EVIL = "<script>alert(1)</script> & \"$x^2$\" 語"
UTTERANCES = [f"s-{number}" for number in range(4)]


def align_row(utt_id, number, has_cif=True):
    row = {"utt_id": utt_id, "speaker": "s", "transcript": EVIL, "duration": 0.5, "tokens": ["<script>", " $x", "語"],
           "n_tokens": 3, "n_speech_tokens": 3, "first_kl": 0.1, "response_kl": [0.1 * number, 0.3],
           "response_top1": [True, False]}
    if has_cif:
        row |= {"n_predicted": 3 + number % 2, "nearest": f"read {EVIL}",
                "input_kl": [0.1, 0.2, 0.3], "input_top1": [True, True, False],
                "alpha": [0.3] * 10, "frame_times": [0.05 * i for i in range(11)],
                "fire_times": [0.1, 0.2, 0.3, 0.45][:3 + number % 2], "fire_times_true": [0.1, 0.2, 0.45],
                "words": [[0.05, 0.2, EVIL], [0.2, 0.4, "語"]], "boundary_errors_ms": [5.0], "last_error_ms": 50.0}
    return row


def make_experiment(folder, data_dir, system, seed=0, bleu=50.0, has_cif=True):
    from blspkd.evaluation.alignment_summary import write_summary

    (folder / "align_test").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"{{system: '{system}', training: {{seed: {seed}}}}}")
    rows = [Row(name, "test", task, metric, value, [value - 1, value + 1], 4, seed, "sig")
            for name, task, metric, value in (("text", "translate", "bleu", 99.0), (system, "translate", "bleu", bleu),
                                              (system, "alignment", "input_kl", 1 - bleu / 100),
                                              (system, "translate", "empty", 0.0), (system, "cost", "wall_s", 12.0))]
    (folder / "results.json").write_text(json.dumps([asdict(row) for row in rows]))
    found = [align_row(utt_id, number, has_cif) for number, utt_id in enumerate(UTTERANCES)]
    (folder / "align_test" / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    (folder / "align_test" / "align.json").write_text("{}")
    write_summary(folder / "align_test" / "summary.json", found, data_dir)
    for suffix, answer in (("", EVIL), (".text", "richtig")):
        decoded = folder / f"decode_translate_test{suffix}"
        decoded.mkdir()
        (decoded / "decode.json").write_text("{}")
        (decoded / "hyp.jsonl").write_text("".join(json.dumps(
            {"utt_id": utt_id, "instruction": "Translate <b>this</b>.", "transcript": EVIL, "reference": "richtig",
             "hypothesis": answer}) + "\n" for utt_id in UTTERANCES))
    writer = SummaryWriter(folder / "tensorboard")
    for step in (10, 20):
        writer.add_scalar("train/input_kl", 1 / step, step)
        writer.add_scalar("eval/input_kl", 2 / step, step)
    writer.close()
    return folder


@pytest.fixture
def data_dir(tmp_path):
    folder = tmp_path / "data" / "test"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).standard_normal(4000).astype(np.float32) * 0.1
    for utt_id in UTTERANCES:
        soundfile.write(folder / f"{utt_id}.wav", noise, 8000)
    write_table(folder / "wav.scp", {utt_id: f"{folder}/{utt_id}.wav" for utt_id in UTTERANCES})
    write_table(folder / "text", dict.fromkeys(UTTERANCES, "a b"))
    write_table(folder / "utt2spk", dict.fromkeys(UTTERANCES, "s"))
    return folder


class Links(HTMLParser):
    """Everything that a browser would fetch, and every tag's balance."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.open, self.tags, self.anchors, self.targets = [], [], [], set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for key, value in attributes:
            if key in ("src", "srcset", "href", "data", "action", "poster"):
                (self.targets.add(value[1:]) if value.startswith("#") else self.fetched.append(value))
            if key == "id":
                self.anchors.add(value)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def write(tmp_path, folders, *words, num_chosen=0, num_worst=1):
    output = tmp_path / "report.html"
    report.main(["--exp_dirs", *map(str, folders), "--output", str(output), "--num_chosen", str(num_chosen),
                 "--num_worst", str(num_worst), *words])
    return output.read_text(encoding="utf-8")


def test_the_page_is_complete_and_fetches_nothing(tmp_path, data_dir, capsys):
    folders = [make_experiment(tmp_path / "exp" / name, data_dir, "blspkd", seed, bleu, has_cif)
               for name, seed, bleu, has_cif in (("a", 0, 60.0, True), ("b", 1, 50.0, True), ("c", 2, 40.0, False))]
    text = write(tmp_path, folders, num_chosen=2, num_worst=20)
    links = Links(text)
    assert not links.open and links.targets == links.anchors
    assert links.fetched and all(link.startswith("data:") for link in links.fetched)
    assert not re.search(r"url\(|@import|<link|<script", text)
    for part in ("BLSP-KD (seed 0)", "BLSP-KD (seed 2)", "Results", "Learning curves", "KL by position",
                 "Alignment against task scores", "Some utterances", "The 4 worst",
                 "read as the nearest text embeddings: read &lt;script&gt;", "99.0", "98.0-100.0", "richtig"):
        assert part in text
    assert "-1.00" in text and "only 3 points" in text  # Spearman of input KL and BLEU, and how little it says
    assert links.tags.count("audio") == 6
    assert "MB" in capsys.readouterr().out


@pytest.mark.parametrize(("systems", "drawn"), [(1, False), (2, False), (3, True)])
def test_points_are_drawn_where_they_can_be_in_an_order(tmp_path, data_dir, systems, drawn):
    text = write(tmp_path, [make_experiment(tmp_path / "exp" / str(seed), data_dir, "blspkd", seed, 40.0 + seed)
                            for seed in range(systems)])
    assert ("alignment measures against task scores" in text) == ("rho of input KL" in text) == drawn
    assert (f"{systems} in the largest set" in text) != drawn


def test_measures_that_too_few_systems_have_are_not_drawn(tmp_path, data_dir, monkeypatch):
    folders = [make_experiment(tmp_path / "exp" / str(seed), data_dir, "blspkd", seed, 40.0 + seed)
               for seed in range(3)]
    row = Row("blspkd", "test", "alignment", "top1", 9.0, [8.0, 10.0], 4, 0, "")
    update_results(folders[0] / "results.json", [row], lambda row: False)
    drawn = []
    monkeypatch.setattr(figures, "scatter", lambda *args: drawn.append(args) or Figure())
    write(tmp_path, folders)
    assert list(drawn[0][0]) == [("input_kl", "translate BLEU")]


def test_curves_of_one_point_are_not_drawn(tmp_path, data_dir, monkeypatch):
    folder = make_experiment(tmp_path / "exp" / "a", data_dir, "blspkd")
    writer = SummaryWriter(folder / "tensorboard")
    writer.add_scalar("eval/count_accuracy", 50.0, 20)
    writer.close()
    drawn = []
    monkeypatch.setattr(figures, "learning_curves", lambda *args: drawn.append(args) or Figure())
    write(tmp_path, [folder])
    assert drawn.pop()[1] == ["input_kl"]
    shutil.rmtree(folder / "tensorboard")
    writer = SummaryWriter(folder / "tensorboard")
    writer.add_scalar("eval/count_accuracy", 50.0, 20)
    writer.close()
    assert "Learning curves" not in write(tmp_path, [folder]) and not drawn


def test_a_term_of_ones_own_has_its_curve(tmp_path, data_dir, monkeypatch):
    folder = make_experiment(tmp_path / "exp" / "a", data_dir, "blspkd")
    writer = SummaryWriter(folder / "tensorboard")
    for step in (10, 20):
        for name in ("train/smoothness", "train/learning_rate", "train/train_runtime"):
            writer.add_scalar(name, 1.0, step)
    writer.close()
    drawn = []
    monkeypatch.setattr(figures, "learning_curves", lambda *args: drawn.append(args) or Figure())
    write(tmp_path, [folder])
    assert drawn.pop()[1] == ["input_kl", "smoothness"]


def test_kl_of_a_single_position_is_not_drawn(tmp_path, data_dir, monkeypatch):
    folder = make_experiment(tmp_path / "exp" / "a", data_dir, "blspkd")
    path = folder / "align_test" / "summary.json"
    summary = json.loads(path.read_text())
    summary["by_position"]["response_kl"] = summary["by_position"]["response_kl"][:1]
    path.write_text(json.dumps(summary))
    drawn = []
    monkeypatch.setattr(figures, "kl_by_position", lambda *args: drawn.append(args) or Figure())
    write(tmp_path, [folder])
    assert drawn[0][1] == ["input_kl"]


def test_what_data_holds_is_escaped_also_inside_pictures(tmp_path, data_dir):
    text = write(tmp_path, [make_experiment(tmp_path / "exp" / "a", data_dir, "blspkd<b>")], "--title", "<i>T</i>")
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text and "<b>" not in text and "<i>" not in text
    pictures = [base64.b64decode(found).decode() for found in
                re.findall(r'data:image/svg\+xml;base64,([^"]+)', text)]
    drawn = [picture for picture in pictures if "seconds" in picture]
    assert drawn and all("<script" not in picture and "語" in picture and "$x" in picture for picture in drawn)


def test_what_data_holds_is_no_template(tmp_path, data_dir):
    for mark in ("{{ 7 * 7 }}", "{% raw %}", "{# no #}", "</article>", "'\"> <img src=x>"):
        folder = make_experiment(tmp_path / "exp" / str(len(mark)), data_dir, "blspkd")
        for path in (folder / "align_test" / "utterances.jsonl", *folder.glob("decode_*/hyp.jsonl")):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps(row | {"transcript": mark, "speaker": mark, "reference": mark,
                                                      "instruction": mark}) + "\n" for row in rows))
        text = write(tmp_path, [folder])
        assert not Links(text).open and "src=x" not in [value for value in Links(text).fetched]
        assert text.count(str(escape(mark))) == 4, mark  # speaker, transcript, instruction, reference


def test_the_same_input_gives_the_same_page(tmp_path, data_dir):
    folder = make_experiment(tmp_path / "exp" / "a", data_dir, "blspkd")
    assert write(tmp_path, [folder]) == write(tmp_path, [folder])


def test_recordings_that_are_gone_are_said_to_be(tmp_path, data_dir):
    folder = make_experiment(tmp_path / "exp" / "a", data_dir, "blspkd")
    (data_dir / "s-3.wav").unlink()
    text = write(tmp_path, [folder], num_worst=2)
    assert "cannot be read" in text and "<audio" in text
    (data_dir / "utt2spk").unlink()
    text = write(tmp_path, [folder])
    assert "not there any more" in text and "<audio" not in text


def test_a_full_page_leaves_recordings_out_and_says_so(tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(cards, "MAX_BYTES", 20_000)
    text = write(tmp_path, [make_experiment(tmp_path / "exp" / "a", data_dir, "blspkd")])
    assert "left out" in text and len(text) < 200_000


def test_an_experiment_without_alignment_still_has_a_page(tmp_path, data_dir):
    folder = make_experiment(tmp_path / "exp" / "a", data_dir, "blspkd")
    (folder / "align_test" / "align.json").unlink()
    text = write(tmp_path, [folder])
    assert "No alignment was measured" in text and "Results" in text


def test_folders_without_results_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        report.main(["--exp_dirs", str(tmp_path), "--output", str(tmp_path / "report.html")])
    assert "results.json" in capsys.readouterr().err and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("metric, best", [
    ("bleu", 3.0), ("exact_match", 3.0), ("top1", 3.0), ("count_accuracy", 3.0), ("boundary_within_50", 3.0),
    ("wer", 1.0), ("cer_sub", 1.0), ("input_kl", 1.0), ("response_kl_true", 1.0), ("count_mae", 1.0),
    ("boundary_median_ms", 1.0), ("empty", 1.0), ("looped", 1.0), ("copied", 1.0), ("foreign", 1.0),
    ("kl_to_base", 1.0), ("changed_top1", 1.0), ("max_state_diff", 1.0),
    ("length_ratio", None), ("count_bias", None), ("boundary_bias_ms", None)])
def test_the_best_trained_system_is_bold_whichever_way_is_better(metric, best):
    values = {"text": 0.0, "text, typed": 9.0, "chance": 0.5, "cascade": 9.0, "cascade-early40 (seed 1)": 0.0,
              "BLSP": 1.0, "BLSP-KD": 3.0}
    rows = [Row(name, "test", "task", metric, value, [value, value], 4, None, "") for name, value in values.items()]
    measurements = environment().get_template("parts.html").module.measurements
    found = re.findall(r'class="best">([^<]+)<', measurements(arrange(rows, [metric])))
    assert found == ([] if best is None else [value_text(replace(rows[0], value=best))])


def test_typed_text_is_told_apart_where_the_llm_itself_was_trained(tmp_path, data_dir):
    """With weights inside the LLM, "text" is what the trained model makes of transcripts, not the bound."""
    folders = {name: make_experiment(tmp_path / "exp" / name, data_dir, name, bleu=50.0)
               for name in ("blspkd+lora", "blspkd", "text")}
    for name, rank in (("blspkd+lora", 4), ("blspkd", 0)):
        (folders[name] / "config.yaml").write_text(
            f"{{system: '{name}', model: {{plora_rank: {rank}}}, training: {{seed: 0}}}}")
    (folders["text"] / "config.yaml").unlink()

    def systems(*names):
        return {row.system for row in all_rows(read_experiments([folders[name] for name in names]))}

    assert systems("blspkd+lora", "text") == {"BLSP-KD+lora", "BLSP-KD+lora, typed", "text"}
    assert systems("blspkd", "text") == {"BLSP-KD", "text"}
    assert systems("blspkd+lora") == {"BLSP-KD+lora", "text"}
    assert systems("blspkd+lora", "blspkd") == {"BLSP-KD+lora", "BLSP-KD+lora, typed", "text", "BLSP-KD"}
    experiments = read_experiments([folders["blspkd+lora"], folders["text"]])
    answers = read_answers(experiments, [("test", "s-1")])["test", "s-1"]
    assert {"text", "BLSP-KD+lora, typed"} <= set(answers)
    assert "whose weights were trained" in write(tmp_path, [folders["blspkd+lora"], folders["text"]])


def test_types_of_questions_have_tables_of_their_own(tmp_path, data_dir):
    folder = make_experiment(tmp_path / "exp" / "a", data_dir, "blspkd")
    for word, n in (("who", 3), ("when", 1)):
        row = Row("blspkd", "test", f"qa:{word}", "exact_match", 50.0, [0.0, 100.0], n, 0, "sig")
        update_results(folder / "results.json", [row], lambda row: False)
    text = write(tmp_path, [folder])
    assert "qa by type of question" in text and "<h3>qa:who" not in text
    assert "<th>qa:who exact match (n=3)</th>" in text and "<th>qa:when exact match (n=1)</th>" in text
    assert not any("qa:" in cloud.task for cloud in clouds(read_experiments([folder])))


def test_labels_tell_experiments_apart(tmp_path, data_dir):
    folders = [make_experiment(tmp_path / "exp" / name, data_dir, system, seed)
               for name, system, seed in (("a", "blspkd", 0), ("b", "blspkd", 0), ("c", "blspkd", 1), ("d", "blsp", 0))]
    assert [experiment.label for experiment in read_experiments(folders)] == [
        "BLSP-KD (seed 0) [a]", "BLSP-KD (seed 0) [b]", "BLSP-KD (seed 1)", "BLSP"]


def test_worst_are_those_of_the_largest_response_kl(tmp_path, data_dir):
    experiment, = read_experiments([make_experiment(tmp_path / "exp" / "a", data_dir, "blspkd")])
    assert worst(experiment, 2) == ([("test", "s-3"), ("test", "s-2")], "response KL")


def test_clouds_pair_measures_with_scores(tmp_path, data_dir):
    folders = [make_experiment(tmp_path / "exp" / f"{bleu}", data_dir, "blspkd", bleu=bleu) for bleu in (20.0, 60.0)]
    cloud, = clouds(read_experiments(folders))
    assert (cloud.measure, cloud.task) == ("input_kl", "translate BLEU")
    assert cloud.finished("test") == [(pytest.approx(0.8), 20.0), (pytest.approx(0.4), 60.0)]
    assert (cloud.sets, cloud.snapshots("test")) == (["test"], [])


def test_snapshots_lead_to_their_finished_model(tmp_path, data_dir):
    folders = [make_experiment(tmp_path / "exp" / f"{seed}", data_dir, "blspkd", seed, bleu=60.0 + seed)
               for seed in range(2)]
    assert "Small points" not in write(tmp_path, folders)
    for step, bleu in ((100, 40.0), (20, 10.0), (50, 20.0)):
        row = Row("blspkd", "test", "translate", "bleu", bleu, [bleu, bleu], 4, 0, "sig")
        (folders[0] / "snapshots" / str(step)).mkdir(parents=True)
        rows = [row, replace(row, task="alignment", metric="input_kl", value=100 - bleu)]
        write_results(folders[0] / "snapshots" / str(step) / "results.json", rows[:2 if step < 100 else 1])
    cloud, = clouds(read_experiments(folders))
    assert [[score for _, score in points] for _, _, points in cloud.trails] == [[10.0, 20.0, 60.0], [61.0]]
    text = write(tmp_path, folders)
    assert "Small points" in text and "-; -1.00 (n=4)" in text
    assert all_rows(read_experiments(folders)) == all_rows(
        read_experiments([shutil.copytree(folder, tmp_path / "no" / folder.name,
                                          ignore=shutil.ignore_patterns("snapshots")) for folder in folders]))


def test_curves_come_from_tensorboard_or_else_from_a_checkpoint(tmp_path):
    assert read_curves(tmp_path) == {}
    (tmp_path / "checkpoint-20").mkdir()
    (tmp_path / "checkpoint-20" / "trainer_state.json").write_text(json.dumps({"log_history": [
        {"step": 20, "loss": 0.5, "epoch": 1.0}, {"step": 10, "loss": 1.0}, {"step": 20, "eval_loss": 2.0}]}))
    assert read_curves(tmp_path) == {"train/loss": [(10, 1.0), (20, 0.5)], "eval/loss": [(20, 2.0)]}
    for value in (3.0, 4.0):  # a restarted run logs a step again
        writer = SummaryWriter(tmp_path / "tensorboard")
        writer.add_scalar("train/loss", value, 10)
        writer.close()
    assert [step for step, _ in read_curves(tmp_path)["train/loss"]] == [10]


def test_curves_that_are_computed_otherwise_are_told_apart(tmp_path):
    def settings(**loss):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"system": "a", "loss": loss}))
        return read_loss_settings(tmp_path)

    found = {"a": settings(temperature=1.0), "b": settings(w_input=0.0), "c": settings(chunk_mib=9, jsd_beta=0.1),
             "d": settings(response_positions="released")}
    assert incomparable(found, "input_kl") == {"a": "temperature 1.0"}
    assert incomparable(found, "response_kl") == {"a": "temperature 1.0", "d": "response_positions released"}
    assert incomparable(found, "response_top1") == {"d": "response_positions released"}
    assert incomparable(found, "loss").keys() == {"b", "c", "d"}  # all differ: the first one counts
    assert incomparable(found, "input_top1") == incomparable(found, "response_ce") == incomparable({}, "loss") == {}
    betas = {"a": settings(divergence="jsd"), "b": settings(divergence="jsd", jsd_beta=0.1)}
    assert incomparable(betas, "input_kl") == {"b": "jsd_beta 0.1"}


def test_curves_that_cannot_be_compared_are_left_out_and_that_is_said(tmp_path, data_dir, monkeypatch):
    folders = [make_experiment(tmp_path / "exp" / name, data_dir, name) for name in ("blspkd", "blsp", "hot")]
    (folders[2] / "config.yaml").write_text("{system: hot, training: {seed: 0}, loss: {temperature: 1.0}}")
    drawn = []
    monkeypatch.setattr(figures, "learning_curves", lambda *args: drawn.append(args) or Figure())
    text = write(tmp_path, folders)
    [(curves, names, colours)] = drawn
    assert colours.keys() == curves.keys()  # of every system, drawn here or not: the same in all pictures
    assert names == ["input_kl"] and {label for label, found in curves.items() if found} == {"BLSP-KD", "BLSP"}
    assert "left out of input KL: hot (temperature 1.0)." in text
    assert "left out of" not in write(tmp_path, folders[:2])


def test_seeds_share_a_colour_and_systems_do_not():
    labels = [f"system {number} (seed {seed})" for number in range(14) for seed in range(2)] + ["system 0 [folder]"]
    colours = palette(labels)
    assert len(set(colours.values())) == 14 and colours["system 0 [folder]"] == colours["system 0 (seed 1)"]


def test_a_spectrogram_shows_a_tone_where_it_is():
    seconds = np.arange(16000) / 16000
    bands = spectrogram(np.sin(2 * np.pi * 1000 * seconds).astype(np.float32), 16000)
    assert bands.shape == (BANDS, 100) and np.isfinite(bands).all()
    loudest = bands[:, 50].argmax() / BANDS * np.log(1 + 8000 / 700)
    assert 700 * (np.exp(loudest) - 1) == pytest.approx(1000, rel=0.1)
