"""Utterances as `report.html` shows them: picture, sound and every system's answers, within the page's size."""

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import soundfile

from blspkd.audio import samples as audio
from blspkd.errors import DataError
from blspkd.evaluation.scorers.texts import normalize
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.reporting import figures
from blspkd.reporting.report_data import REFERENCES, Experiment, Place, read_answers

log = logging.getLogger(__name__)
RATE = 16000  # Hz, of the audio in the page
MAX_BYTES = 15 << 20  # of the page; recordings and pictures that would go beyond are left out, and that is said
MANY_SYSTEMS = 10  # more than these do not all show their answers


@dataclass(frozen=True)
class Card:
    """One utterance; recording: [("picture" or "sound", data URI) or ("note", text)]."""

    utt_id: str
    facts: str
    transcript: str
    read: str  # the nearest text embeddings of its speech tokens, as text; empty where there are none
    recording: list[tuple[str, str]]
    asked: dict[str, dict]  # task -> row of hyp.jsonl, for its instruction and reference
    answers: list[tuple[str, list[tuple[str, str]]]]  # system -> by task (answer, "right", "wrong" or "")


class Cards:
    """Makes cards of `main`'s utterances until the page is full; `left_out` counts what found no room."""

    def __init__(self, main: Experiment, experiments: Sequence[Experiment], places: Sequence[Place]):
        self.main = main
        self.answers = read_answers(experiments, places)
        self.room = MAX_BYTES * 9 // 10  # the rest is for the other pictures
        self.left_out = 0
        self._data_dir = cache(self._read_data_dir)

    def card(self, place: Place) -> Card:
        set_name, utt_id = place
        row = self.main.aligned[set_name][utt_id]
        facts = f"{set_name} · {utt_id} · {row['speaker']} · {row['duration']:.1f} s · {row['n_tokens']} tokens"
        if row.get("n_predicted") is not None:
            facts += f", {row['n_predicted']} heard"
        if row["response_kl"]:
            facts += f" · response KL {np.mean(row['response_kl']):.2f}"
        by_system = self.answers[place]
        asked = {task: answer for answers in by_system.values() for task, answer in answers.items()}
        answers = [(system, [_marked(by_system[system].get(task)) for task in asked]) for system in _shown(by_system)]
        return Card(utt_id, facts, row["transcript"], row.get("nearest", ""), self._recording(set_name, row), asked,
                    answers)

    def _recording(self, set_name: str, row: dict) -> list[tuple[str, str]]:
        data = self._data_dir(set_name)
        if data is None or row["utt_id"] not in data:
            return [("note", "its recording is not there any more")]
        try:
            samples = audio.load(data[row["utt_id"]].audio, RATE)
        except DataError as error:
            return [("note", f"its recording cannot be read: {error}")]
        picture = figures.data_uri(figures.utterance(samples, RATE, row))
        return [self._placed(kind, uri) for kind, uri in (("picture", picture), ("sound", audio_uri(samples, RATE)))]

    def _placed(self, kind: str, uri: str) -> tuple[str, str]:
        if len(uri) > self.room:
            self.left_out += 1
            return "note", f"{kind} left out: the page is full"
        self.room -= len(uri)
        return kind, uri

    def _read_data_dir(self, set_name: str) -> KaldiDir | None:
        folder = self.main.summaries[set_name]["data_dir"]
        try:
            return KaldiDir.read(folder)
        except DataError as error:
            log.warning("%s: its recordings are left out (%s)", folder, error)
            return None


def _shown(systems: Sequence[str]) -> list[str]:
    """The references first; of many systems, one seed of each."""
    systems = sorted(systems, key=lambda name: REFERENCES.index(name) if name in REFERENCES else len(REFERENCES))
    if len(systems) > MANY_SYSTEMS:
        systems = list({figures.system_of(name): name for name in reversed(systems)}.values())[::-1]
    return systems


def _marked(row: dict | None) -> tuple[str, str]:
    """An answer, and whether it equals the reference."""
    if row is None:
        return "-", ""
    same = normalize(row["hypothesis"]) == normalize(row["reference"])
    return row["hypothesis"] or "(nothing)", "right" if same else "wrong"


def audio_uri(samples: np.ndarray, rate: int) -> str:
    """FLAC of 16 bits as a data URI."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
    return "data:audio/flac;base64," + base64.b64encode(file.getvalue()).decode("ascii")
