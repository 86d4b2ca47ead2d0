"""`report.html`: everything that a person looks at, in one file that opens without a network.

Numbers come from `results.json`, curves from what training logged, pictures of utterances from `align_<set>/` of the
first experiment that has one, answers from the decode directories.
"""

import base64
import io
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from blspkd.audio import samples as audio
from blspkd.errors import DataError
from blspkd.evaluation.results import question_types, whole_tasks
from blspkd.evaluation.scorers import HEALTH, SCORERS, with_parts
from blspkd.evaluation.scorers.texts import normalize
from blspkd.files import atomic_write
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.reporting import figures
from blspkd.reporting.clouds import add_clouds, colours_of
from blspkd.reporting.learning_curves import incomparable
from blspkd.reporting.report_data import (
    REFERENCES,
    Experiment,
    Place,
    all_rows,
    chosen,
    read_answers,
    read_experiments,
    worst,
)
from blspkd.reporting.report_html import (
    Document,
    folded,
    grid,
    heading,
    marked_grid,
    measurements,
    paragraph,
    picture,
)
from blspkd.reporting.tables import TYPED, arrange, metric_label

log = logging.getLogger(__name__)
RATE = 16000  # Hz, of the audio in the page
MAX_BYTES = 15 << 20  # of the page; recordings and pictures that would go beyond are left out, and that is said
MANY_SYSTEMS = 10  # more than these do not all show their answers
CURVES = ("input_kl", "response_kl", "response_ce", "input_top1", "response_top1", "count_accuracy", "quantity", "loss")
KINDS = ("train", "eval")  # of curves
ALIGNMENT = ("input_kl", "top1", "response_kl", "first_kl", "response_top1", "count_accuracy", "count_mae",
             "boundary_median_ms", "boundary_bias_ms", "boundary_within_50", "boundary_within_100")


def write_report(exp_dirs: Sequence[str | Path], output: str | Path, *, title: str = "BLSP-KD: results",
                 num_chosen: int = 6, num_worst: int = 20, seed: int = 0) -> int:
    """Write `output`; returns its size in bytes. Raises DataError for a folder without results."""
    if not exp_dirs:
        raise DataError("--exp_dirs: name at least one exp/<tag>")
    experiments = read_experiments(exp_dirs)
    page = Document(title)
    page.add(paragraph("Systems: " + ", ".join(experiment.label for experiment in experiments), "note"),
             paragraph("Values are percentages unless their name says otherwise; KL is in nats at temperature 1; below "
                       "each value is its 95% bootstrap interval over utterances; the best trained system of a column "
                       "is bold, which does not mean that it is significantly better.", "note"))
    _results(page, experiments)
    _curves(page, experiments)
    _positions(page, experiments)
    add_clouds(page, experiments)
    _slices(page, experiments)
    _utterances(page, experiments, num_chosen, num_worst, seed)
    _others(page, experiments)
    text = page.html()
    with atomic_write(output) as file:
        file.write(text)
    return len(text.encode("utf-8"))


def _results(page: Document, experiments: Sequence[Experiment]) -> None:
    rows = all_rows(experiments)
    parts = []
    for task in dict.fromkeys(row.task for row in whole_tasks(rows) if row.metric in SCORERS):
        table = arrange([row for row in rows if row.task == task], SCORERS)
        sizes = sorted({row.n for row in table.cells.values()})
        number = "-".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
        parts += [heading(f"{task} (n = {number} utterances per set)"), measurements(table)]
    parts += [folded(f"{task} by type of question (the first word of the instruction): {name}",
                     measurements(arrange(own, SCORERS)))
              for (task, name), own in question_types(rows).items()]
    page.section("results", "Results", paragraph(
        "text: the transcript typed in, the upper bound. chance: the speech of another utterance."
        + (f" {TYPED.strip(', ')}: the transcript typed into an LLM whose weights were trained."
           if any(row.system.endswith(TYPED) for row in rows) else ""), "note"), *parts)
    aligned = [row for row in rows if row.task == "alignment" and row.metric in ALIGNMENT]
    sets = dict.fromkeys(row.set for row in aligned)
    tables = []
    for name in sets:
        own = sorted((row for row in aligned if row.set == name), key=lambda row: ALIGNMENT.index(row.metric))
        tables += [heading(name), measurements(arrange(own, ALIGNMENT))]
    if tables:
        page.section("alignment", "Alignment quality", paragraph(
            "The same LLM reads the transcript and the speech; its next-token distributions are compared. Input KL and "
            "top-1 agreement use the true number of speech tokens, response KL the predicted one. Boundaries: how far "
            "a token's fire is from the end of its word, in ms; bias is the median signed error, positive is late.",
            "note"), *tables)


def _curves(page: Document, experiments: Sequence[Experiment]) -> None:
    curves = {experiment.label: dict(experiment.curves) for experiment in experiments if experiment.curves}
    names = [name for name in CURVES  # a single point is no curve
             if any(len(found.get(f"{kind}/{name}", ())) > 1 for found in curves.values() for kind in KINDS)]
    if not names:
        return
    notes = []
    for name in names:
        left_out = incomparable({experiment.label: experiment.loss_settings for experiment in experiments
                                 if any(f"{kind}/{name}" in experiment.curves for kind in KINDS)}, name)
        for label, kind in itertools.product(left_out, KINDS):
            curves[label].pop(f"{kind}/{name}", None)
        differing = {figures.system_of(label): why for label, why in left_out.items()}
        if differing:
            notes.append(f" Not comparable and left out of {metric_label(name)}: "
                         + "; ".join(f"{system} ({why})" for system, why in differing.items()) + ".")
    page.section("curves", "Learning curves", picture(
        figures.data_uri(figures.learning_curves(curves, names, colours_of(experiments))), "learning curves",
        "Thin: training, with its augmentation. Dots: validation. Both with the training's own divergence and "
        "temperature; top-1 agreement and cross-entropy depend on neither." + "".join(notes)))


def _positions(page: Document, experiments: Sequence[Experiment]) -> None:
    parts = []
    for name in dict.fromkeys(name for experiment in experiments for name in experiment.summaries):
        curves = {experiment.label: experiment.summaries[name]["by_position"] for experiment in experiments
                  if name in experiment.summaries}
        keys = [key for key in ("input_kl", "response_kl")
                if any(len(figures.reached(found.get(key, ()))) > 1 for found in curves.values())]
        if keys:
            drawn = figures.kl_by_position(curves, keys, colours_of(experiments))
            parts += [heading(name), picture(figures.data_uri(drawn), f"KL by position, {name}")]
    if parts:
        page.section("positions", "KL by position", paragraph(
            "Means over the utterances that are long enough; positions that less than a tenth reach are left out.",
            "note"), *parts)


def _slices(page: Document, experiments: Sequence[Experiment]) -> None:
    main = _drawn(experiments)
    if main is None:
        return
    shown = ("input_kl", "top1", "response_kl", "count_accuracy", "boundary_median_ms", "boundary_bias_ms")
    parts = []
    for name, summary in main.summaries.items():
        for kind, entries in {**summary["slices"], **summary["token_slices"]}.items():
            columns = [key for key in shown if any(key in entry for entry in entries)]
            if entries:
                lines = [[entry["label"], str(entry["n"]),
                          *(f"{entry[key]:.2f}" if key in entry else "-" for key in columns)] for entry in entries]
                parts.append(folded(f"{name}: by {kind}", grid([kind, "n", *map(metric_label, columns)], lines)))
    page.section("slices", f"Where {main.label} is better and worse", *parts)


def _utterances(page: Document, experiments: Sequence[Experiment], num_chosen: int, num_worst: int, seed: int) -> None:
    main = _drawn(experiments)
    if main is None:
        page.section("utterances", "Utterances", paragraph(
            "No alignment was measured, so no utterance can be drawn: run stage 4 with --align_sets for at least one "
            "experiment."))
        return
    drawn = chosen(main, num_chosen, seed)
    places, what = worst(main, num_worst)
    cards = _Cards(main, experiments, [*drawn, *places])
    page.section("utterances", "Some utterances", paragraph(
        f"{num_chosen} utterances, drawn by seed {seed} and not by how good they are. White lines: where {main.label} "
        "closes its tokens (their texts above; numbers, where it heard another number of tokens than the transcript "
        "has). Blue: alpha. Below: the words as they were spoken, where that is known. Green answers equal the "
        "reference.", "note"), *map(cards.card, drawn))
    page.section("worst", f"The {len(places)} worst",
                 paragraph(f"Those with the largest {what} of {main.label}.", "note"), *map(cards.card, places))
    if cards.left_out:
        page.add(paragraph(f"{cards.left_out} recordings or pictures are left out: the page would be larger than "
                           f"{MAX_BYTES >> 20} MB."))
        log.warning("%d recordings or pictures are left out to keep the page below %d MB", cards.left_out,
                    MAX_BYTES >> 20)


def _others(page: Document, experiments: Sequence[Experiment]) -> None:
    rows = all_rows(experiments)
    table = arrange(rows, HEALTH)
    parts = []
    for task in dict.fromkeys(task for task, _, _ in table.columns):
        parts.append(folded(f"Output health: {task}",
                            measurements(arrange([row for row in rows if row.task == task], HEALTH))))
    shown = with_parts(SCORERS | HEALTH)
    rest = [row for row in rows if row.metric not in shown
            and not (row.task == "alignment" and row.metric in ALIGNMENT)]
    for task in dict.fromkeys(row.task for row in rest):
        own = [row for row in rest if row.task == task]
        parts.append(folded(f"More of {task}", measurements(arrange(own, list(dict.fromkeys(r.metric for r in own))))))
    signatures = dict.fromkeys((row.metric, row.signature) for row in rows if row.signature)
    parts.append(folded("How each number was computed", grid(
        ["metric", "signature"], [[metric_label(metric), text] for metric, text in signatures], "words")))
    page.section("more", "Output health, cost and the small print", *parts)


def _drawn(experiments: Sequence[Experiment]) -> Experiment | None:
    """The experiment whose alignment is drawn: the first with CIF, else the first that was measured."""
    measured = [experiment for experiment in experiments if experiment.summaries]
    with_cif = [experiment for experiment in measured
                if any("input_kl" in summary["measures"] for summary in experiment.summaries.values())]
    return next(iter(with_cif or measured), None)


class _Cards:
    """Utterances as they stand in the page, within the page's budget of bytes."""

    def __init__(self, main: Experiment, experiments: Sequence[Experiment], places: Sequence[Place]):
        self.main = main
        self.answers = read_answers(experiments, places)
        self.room = MAX_BYTES * 9 // 10  # the rest is for the other pictures
        self.left_out = 0
        self._data: dict[str, KaldiDir | None] = {}

    def card(self, place: Place) -> str:
        set_name, utt_id = place
        row = self.main.aligned[set_name][utt_id]
        facts = f"{set_name} · {utt_id} · {row['speaker']} · {row['duration']:.1f} s · {row['n_tokens']} tokens"
        if row.get("n_predicted") is not None:
            facts += f", {row['n_predicted']} heard"
        if row["response_kl"]:
            facts += f" · response KL {np.mean(row['response_kl']):.2f}"
        said = f"<p class=\"said\">{paragraph(row['transcript'])[3:-4]}</p>"
        return f"<article>{heading(facts)}{said}{self._recording(set_name, row)}{self._answers(place)}</article>"

    def _recording(self, set_name: str, row: dict) -> str:
        data = self._data_dir(set_name)
        if data is None or row["utt_id"] not in data:
            return paragraph("(its recording is not there any more)", "note")
        try:
            samples = audio.load(data[row["utt_id"]].audio, RATE)
        except DataError as error:
            return paragraph(f"(its recording cannot be read: {error})", "note")
        picture_uri = figures.data_uri(figures.utterance(samples, RATE, row))
        html = ""
        for kind, uri in (("picture", picture_uri), ("sound", audio_uri(samples, RATE))):
            if len(uri) > self.room:
                self.left_out += 1
                html += paragraph(f"({kind} left out: the page is full)", "note")
                continue
            self.room -= len(uri)
            html += (picture(uri, f"spectrogram, tokens and words of {row['utt_id']}") if kind == "picture"
                     else f'<audio controls preload="none" src="{uri}"></audio>')
        return html

    def _data_dir(self, set_name: str) -> KaldiDir | None:
        if set_name not in self._data:
            folder = self.main.summaries[set_name]["data_dir"]
            try:
                self._data[set_name] = KaldiDir.read(folder)
            except DataError as error:
                log.warning("%s: its recordings are left out (%s)", folder, error)
                self._data[set_name] = None
        return self._data[set_name]

    def _answers(self, place: Place) -> str:
        """One line per system, one column per task; the reference first."""
        found = self.answers[place]
        asked = {task: row for answers in found.values() for task, row in answers.items()}
        if not asked:
            return ""
        systems = sorted(found, key=lambda name: REFERENCES.index(name) if name in REFERENCES else len(REFERENCES))
        if len(systems) > MANY_SYSTEMS:  # then one seed of each
            systems = list({figures.system_of(name): name for name in reversed(systems)}.values())[::-1]
        heads = ["", *(f"{task}: {row['instruction']}" for task, row in asked.items())]
        lines = [[("reference", ""), *((row["reference"], "") for row in asked.values())]]
        for system in systems:
            cells = [(system, "")]
            for task, row in asked.items():
                answer = found[system][task]["hypothesis"] if task in found[system] else None
                same = answer is not None and normalize(answer) == normalize(row["reference"])
                cells.append(("-", "") if answer is None else (answer or "(nothing)", "right" if same else "wrong"))
            lines.append(cells)
        return marked_grid(heads, lines, "words")


def audio_uri(samples: np.ndarray, rate: int) -> str:
    """FLAC of 16 bits as a data URI."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode("ascii")
