"""Bad input of every kind: a named error in one message and a status that is not 0, or a counted, reported skip.

One table. A case spoils one thing in a small data directory that is in order, and says which command then meets it and
what the user reads. Nothing may be lost: every file of the directory stays as it was.
"""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from transformers import AutoTokenizer, Wav2Vec2FeatureExtractor, WhisperConfig, WhisperModel

from blspkd.bin import data_dir as data_dir_command
from blspkd.bin import generate_continuations
from blspkd.config import DataConfig, ModelConfig, PromptConfig
from blspkd.data.batching import collate
from blspkd.data.examples import Example, ExampleDataset
from blspkd.data.features import FeatureExtractor
from blspkd.errors import command
from blspkd.kaldi.data_dir import KaldiDir
from blspkd.kaldi.tables import read_table, write_table
from blspkd.models.listener import Listener
from blspkd.models.speech_llm import SpeechLlm
from blspkd.training.trainer import KdTrainer

IDS = ["ann-1", "ann-2", "bob-1", "bob-2", "bob-3", "cem-1"]
RATE = 16000


@dataclass
class Scene:
    """A data directory in order, a place for files, and small models."""

    folder: Path
    place: Path
    tiny_llm: str
    tiny_encoder: str

    def lines(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()

    def write(self, name: str, lines: list[str] | bytes | str) -> None:
        data = lines if isinstance(lines, bytes) else "".join(
            f"{line}\n" for line in ([lines] if isinstance(lines, str) else lines)).encode()
        (self.folder / name).write_bytes(data)

    def entry(self, entry: str) -> None:
        """Let `entry` be the recording of ann-1."""
        self.write("wav.scp", [f"ann-1 {entry}", *self.lines("wav.scp")[1:]])


@pytest.fixture
def scene(make_dir, tmp_path, tiny_llm, tiny_encoder) -> Scene:
    place = tmp_path / "place"
    place.mkdir()
    return Scene(make_dir(), place, tiny_llm, tiny_encoder)


def tone(seconds: float = 1.0, channels: int = 1, rate: int = RATE) -> np.ndarray:
    samples = 0.3 * np.sin(np.arange(int(seconds * rate)) / 7)
    return np.stack([samples] * channels, axis=1).astype(np.float32)


# ---- audio: what makes the file, what `durations` says about it ----

def sound(path: Path, form: str = "WAV", subtype: str = "PCM_16", samples=None, rate: int = RATE) -> Path:
    soundfile.write(path, tone() if samples is None else samples, rate, format=form, subtype=subtype)
    return path


def truncated(form: str, subtype: str):
    def make(path: Path) -> str:
        data = sound(path, form, subtype, tone(6)).read_bytes()
        path.write_bytes(data[:len(data) // 2])
        return str(path)
    return make


def corrupt(form: str, subtype: str):
    """Zeros over the beginning."""
    def make(path: Path) -> str:
        data = bytearray(sound(path, form, subtype).read_bytes())
        data[:min(64, len(data))] = bytes(64)
        path.write_bytes(data.replace(b"fLaC", b"xxxx").replace(b"OggS", b"xxxx").replace(b"\xff\xfb", b"\0\0")
                         .replace(b"\xff\xf3", b"\0\0"))
        return str(path)
    return make


def raw(data: bytes, entry: str = ""):
    def make(path: Path) -> str:
        path.write_bytes(data)
        return f"{path}{entry}"
    return make


def samples(values: Callable[[np.ndarray], np.ndarray], form: str = "WAV", subtype: str = "FLOAT"):
    return lambda path: str(sound(path, form, subtype, values(tone())))


def done(action: Callable[[Path], object]):
    return lambda path: (action(path), str(path))[1]


def sphere(coding: str) -> bytes:
    head = ("NIST_1A\n   1024\nsample_count -i 16000\nsample_n_bytes -i 2\nchannel_count -i 1\n"
            f"sample_byte_format -s2 01\nsample_rate -i 16000\nsample_coding -s{len(coding)} {coding}\nend_head\n")
    return head.encode().ljust(1024) + bytes(32000)


def with_value(value: float):
    def change(values: np.ndarray) -> np.ndarray:
        values[8000] = value
        return values
    return change


FORMATS = {"wav": ("WAV", "PCM_16"), "24 bit wav": ("WAV", "PCM_24"), "float wav": ("WAV", "FLOAT"),
           "extensible wav": ("WAVEX", "PCM_16"), "A-law wav": ("WAV", "ALAW"), "flac": ("FLAC", "PCM_16"),
           "sph": ("NIST", "PCM_16"), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"),
           "mp3": ("MP3", "MPEG_LAYER_III")}
AUDIO = {
    **{f"truncated {name}": (truncated(*form), "truncated|cannot be decoded") for name, form in FORMATS.items()},
    **{f"corrupt {name}": (corrupt(*form), "is not audio|cannot be decoded|truncated")
       for name, form in FORMATS.items()},
    "truncated ark": (raw(b"a RIFF" + (32000).to_bytes(4, "little") + b"WAVE", ":2"), "archive is truncated"),
    "corrupt ark": (raw(b"a \0BFM" + bytes(99), ":2"), "no audio at this offset"),
    "ark with a pickle": (raw(b"a PKL\x80\x04.", ":2"), "no audio at this offset"),
    "offset past the end of an ark": (raw(b"a RIFF", ":999"), "no audio at this offset"),
    "no samples in a wav": (lambda path: str(sound(path, samples=tone(0))), "holds no samples"),
    "no samples in a flac": (lambda path: str(sound(path, "FLAC", samples=tone(0))), "no samples|empty file"),
    "empty file": (raw(b""), "is an empty file"),
    "text instead of sound": (raw(b"four score and seven years ago\n" * 9), "is not audio"),
    "shorten-compressed sph": (raw(sphere("pcm,embedded-shorten-v2.00")), "embedded-shorten-v2.00: .*sph2pipe"),
    "NaN": (samples(with_value(np.nan)), "NaN or Inf at sample 8000"),
    "Inf": (samples(with_value(np.inf)), "NaN or Inf at sample 8000"),
    "integers as floats": (samples(lambda values: values * 32768), "divide by 32768"),
    "2 channels": (lambda path: str(sound(path, samples=tone(1, 2))), "2 channels.*choose_channel"),
    "8 channels": (lambda path: str(sound(path, samples=tone(1, 8))), "8 channels.*choose_channel"),
    "missing file": (str, "there is no such file"),
    "folder": (done(Path.mkdir), "not a regular file"),
    "fifo": (done(os.mkfifo), "not a regular file"),
    "device": (lambda path: "/dev/zero", "not a regular file"),
    "link to itself": (done(lambda path: path.symlink_to(path)), "levels of symbolic links"),
    "link to nowhere": (done(lambda path: path.symlink_to(path.with_name("nowhere"))), "there is no such file"),
    "path out of the corpus": (lambda path: "../../../../../../../../../../../../etc/passwd", "is not audio"),
    "very long path": (lambda path: f"{path}{'x' * 5000}", "cannot be read"),
}
if os.geteuid():  # root reads everything
    AUDIO["unreadable file"] = (done(lambda path: sound(path).chmod(0)), "Permission denied")

# ---- tables: {file: lines or bytes}, what `validate` says ----

TEXT = [f"{utt_id} words" for utt_id in IDS]
SPEAKERS = [f"{utt_id} {utt_id[:3]}" for utt_id in IDS]
TABLES = {
    "invalid UTF-8": ({"text": b"ann-1 caf\xe9\n"}, "text:1: byte 10 is not valid UTF-8"),
    "UTF-16": ({"text": "ann-1 x\n".encode("utf-16")}, "text:1: byte 1 is not valid UTF-8"),
    "byte order mark": ({"text": "\ufeff" + "\n".join(TEXT)}, "begins with a byte order mark"),
    "carriage returns": ({"text": "\r\n".join(TEXT)}, "text:1: the line ends in a carriage return"),
    "control character": ({"text": ["ann-1 be\x07ll", *TEXT[1:]]}, r"text:1: ann-1: '\\x07'"),
    "NUL": ({"wav.scp": ["ann-1 a\0b.wav"]}, r"wav.scp:1: ann-1: '\\x00'"),
    "blank line": ({"text": ["", *TEXT]}, "text:1: the line is blank"),
    "no transcript": ({"text": ["ann-1", *TEXT[1:]]}, "text:1: ann-1: nothing after the id"),
    "empty text": ({"text": b""}, "no transcript: not in text: 6"),
    "empty utt2spk": ({"utt2spk": b""}, "utt2spk holds none"),
    "missing in text": ({"text": TEXT[1:]}, "no transcript: not in text: 1\n  ann-1"),
    "missing in wav.scp": ({"text": TEXT, "wav.scp": []}, "no audio: not in wav.scp: 6"),
    "missing in utt2spk": ({"utt2spk": SPEAKERS[1:]}, "not in utt2spk: 1\n  text:1: ann-1"),
    "missing in spk2utt": ({"spk2utt": ["ann ann-1 ann-2"]}, "lacks utterances of utt2spk: 4"),
    "duplicate": ({"text": [*TEXT, TEXT[-1]]}, "text:7: cem-1 stands here a second time"),
    "wrong order": ({"text": TEXT[::-1]}, "bob-3 stands after cem-1"),
    "order of a locale": ({"text": ["ann-1 x", "Bob-1 x"]}, "Bob-1 stands after ann-1"),
    "space in an id": ({"utt2spk": ["ann 1 ann", *SPEAKERS[1:]]}, "utt2spk:1: 'ann 1 ann': .*ids hold no blanks"),
    "wide space in an id": ({"text": ["ann\u30001 x"]}, r"must not contain '\\u3000'"),
    "line break in an id": ({"text": ["ann", "-1 x"]}, "must not begin with '-'"),
    "path in an id": ({"text": ["../../etc/passwd x"]}, "must not contain '/'"),
    "command in an id": ({"utt2spk": ["$(reboot) x"]}, r"must not contain '\$'"),
    "backquote in an id": ({"utt2spk": ["`reboot` x"]}, "must not contain '`'"),
    "option as an id": ({"text": ["-rf x"]}, "must not begin with '-'"),
    "very long id": ({"text": ["a" * 300 + " x"]}, "longer than 200 bytes"),
    "two speakers": ({"utt2spk": ["ann-1 ann bob", *SPEAKERS[1:]]}, "utt2spk:1: 'ann-1 ann bob': .*ids hold no blanks"),
    "utterance of two speakers": ({"spk2utt": ["ann ann-1 ann-2", "bob ann-1"]}, "ann-1 is bob's here and ann's in"),
    "unknown column": ({"segments": ["ann-1 ann-1 0 0.1 0 0.5"]}, "segments:1: ann-1: expected `<recording>"),
    "negative time": ({"segments": ["ann-1 ann-1 -1 0.1"]}, "from -1 s to 0.1 s is not a stretch"),
    "time backwards": ({"segments": ["ann-1 ann-1 2 1"]}, "from 2 s to 1 s is not a stretch"),
    "time that is no number": ({"segments": ["ann-1 ann-1 0 later"]}, "segments:1: ann-1: could not convert"),
    "time that is NaN": ({"segments": ["ann-1 ann-1 nan 1"]}, "is not a stretch of time"),
    "segment of no recording": ({"segments": ["ann-1 rec9 0 1"]}, "segments:1: ann-1: recording rec9"),
    "duration of nothing": ({"utt2dur": ["ann-1 0"]}, "'0' is not a number of seconds above 0"),
    "channel by name": ({"reco2channel": ["ann-1 left"]}, "channel 'left' is not a number"),
    "continuation without quotes": ({"continuation": ["ann-1 words"]}, "is not a text in double quotes"),
}

# ---- everything else: spoils the scene, returns what to run; what is said ----


def verb(*words) -> Callable[[], None]:
    return lambda: data_dir_command.main([str(word) for word in words])


def set_entry(entry: Callable[[Scene], str], *words: str):
    def spoil(scene: Scene) -> Callable:
        scene.entry(entry(scene))
        return verb(*words, scene.folder, *([scene.place / "out"] if words[0] in ("materialize", "filter") else []))
    return spoil


def cut(start: float, end: float):
    def spoil(scene: Scene) -> Callable:
        scene.write("segments", [f"ann-1 ann-1 {start} {end}", *(f"{utt_id} {utt_id} 0 -1" for utt_id in IDS[1:])])
        return verb("durations", scene.folder)
    return spoil


def limited(*words, size: int = 40):
    """No file may grow beyond `size` bytes: what a full disk is like, wherever it happens."""
    def spoil(scene: Scene) -> Callable:
        def run():
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
            try:
                verb(*(word(scene) if callable(word) else word for word in words))()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if words[0] == "fix":
            scene.write("text", scene.lines("text")[::-1])
        return run
    return spoil


def tokenizer(change: Callable) -> Callable:
    def spoil(scene: Scene) -> Callable:
        spoilt = AutoTokenizer.from_pretrained(scene.tiny_llm)
        change(spoilt)
        spoilt.save_pretrained(scene.place)
        for name in ("config.json", "generation_config.json", "model.safetensors"):
            (scene.place / name).symlink_to(Path(scene.tiny_llm) / name)
        return lambda: generate_continuations.main(["--llm", str(scene.place), "--data_dir", str(scene.folder),
                                                    "--job", "1", "--num_jobs", "1"])
    return spoil


def no_template(spoilt) -> None:
    spoilt.chat_template = None


def no_end(spoilt) -> None:
    spoilt.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    spoilt.eos_token = None


def adapter_for_another_encoder(scene: Scene) -> Callable:
    config = ModelConfig(llm=scene.tiny_llm, speech_encoder=scene.tiny_encoder,
                         adapter_options={"num_pre_cif_layers": 1, "num_post_cif_layers": 1, "heads": 2, "ffn_dim": 16},
                         attn_implementation="eager")
    SpeechLlm.from_config(config, PromptConfig()).save_pretrained(scene.place / "model")
    wide = WhisperConfig(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                         decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, num_mel_bins=20, vocab_size=8,
                         max_source_positions=100, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                         decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None)
    WhisperModel(wide).save_pretrained(scene.place / "wide")
    file = scene.place / "model" / "config.yaml"
    file.write_text(file.read_text().replace(scene.tiny_encoder, str(scene.place / "wide")))
    (scene.place / "model" / "base_models.json").unlink()  # an older version's model, so that nothing tells
    return lambda: command(Listener.from_pretrained)(scene.place / "model")


def heads_that_do_not_fit(scene: Scene) -> Callable:
    config = ModelConfig(llm=scene.tiny_llm, speech_encoder=scene.tiny_encoder, adapter_options={"heads": 5})
    return lambda: command(SpeechLlm.from_config)(config, PromptConfig())


def text_model_as_encoder(scene: Scene) -> Callable:
    Wav2Vec2FeatureExtractor().save_pretrained(scene.place)
    (scene.place / "config.json").symlink_to(Path(scene.tiny_llm) / "config.json")
    (scene.place / "model.safetensors").symlink_to(Path(scene.tiny_llm) / "model.safetensors")
    config = ModelConfig(llm=scene.tiny_llm, speech_encoder=str(scene.place))
    return lambda: command(SpeechLlm.from_config)(config, PromptConfig())


def in_training(change: Callable[[Scene], object], max_bad_ratio: float = 0.0):
    """The data directory changes when it has been read, and the training loads its utterances."""
    def spoil(scene: Scene) -> Callable:
        ids = np.zeros(3, dtype=np.int32)
        examples = [Example(utterance.utt_id, utterance.audio, 1.0, ids, ids, ids, ids)
                    for utterance in KaldiDir.read(scene.folder)]
        change(scene)
        data = ExampleDataset(examples, FeatureExtractor(scene.tiny_encoder, False), DataConfig(), 0, augment=False)
        config = SimpleNamespace(data=DataConfig(max_bad_ratio=max_bad_ratio))
        trainer = SimpleNamespace(config=config, _bad=0, _seen=0)

        def run():
            batch = collate([data[(0, index)] for index in range(len(data))])
            assert len(batch.utt_ids) == 5 and len(batch.errors) == 1
            KdTrainer._check_errors(trainer, batch)
            print(f"{len(batch.errors)} skipped: {batch.errors[0]}")
        return command(run)
    return spoil


OUT = (lambda scene: scene.place / "out")  # noqa: E731
DIR = (lambda scene: scene.folder)  # noqa: E731
OTHER = {
    "command without consent": (set_entry(lambda scene: f"touch {scene.place}/stolen |", "durations"),
                                "run only with consent"),
    "command in materialize": (set_entry(lambda scene: f"touch {scene.place}/stolen |", "materialize"),
                               "allow this shell to run them: --allow_pipes true"),
    "command in filter": (set_entry(lambda scene: f"touch {scene.place}/stolen |", "filter"), "run only with consent"),
    "command behind a path": (set_entry(lambda scene: f"a.wav; touch {scene.place}/stolen", "durations"),
                              "ann-1: .*there is no such file"),
    "command in a path": (set_entry(lambda scene: f"$(touch {scene.place}/stolen).wav", "durations"),
                          "ann-1: .*there is no such file"),
    "pipe in front": (set_entry(lambda scene: f"| touch {scene.place}/stolen", "durations"), "run only with consent"),
    "standard input": (set_entry(lambda scene: "-", "durations"), "run only with consent"),
    "segment behind the end": (cut(5, 6), "ann-1: .*the segment is outside the recording, which is 0.100 s"),
    "segment over the end": (cut(0, 1), "ann-1: .*the segment is outside the recording"),
    "segment of no sample": (cut(0.00001, 0.00002), "ann-1: .*the segment holds no sample"),
    "no such folder": (lambda scene: verb("validate", scene.place / "none"), "there is no such data directory"),
    "folder that is a file": (lambda scene: verb("validate", scene.folder / "text"), "there is no such data directory"),
    "folder that links to itself": (lambda scene: verb("validate", done(lambda path: path.symlink_to(path))(
        scene.place / "loop")), "no such data directory"),
    "folder of something else": (lambda scene: verb("fix", scene.place), "is no data directory"),
    "line break to be written": (lambda scene: lambda: command(write_table)(scene.folder / "text", {"a": "x\ny"}),
                                 "cannot be in a value; replace it by a space"),
    "line break in an id to be written": (
        lambda scene: lambda: command(write_table)(scene.folder / "text", {"a\nb": ""}),
        r"must not contain '\\n'; change the id"),
    "full disk, fix": (limited("fix", DIR), "File too large; raise the limit"),
    "full disk, subset": (limited("subset", DIR, 5, OUT), "File too large"),
    "full disk, split": (limited("split", DIR, 2), "File too large"),
    "full disk, combine": (limited("combine", OUT, DIR), "File too large"),
    "full disk, filter": (limited("filter", DIR, OUT, "--max_tokens_per_second", 99), "File too large"),
    "full disk, durations": (limited("durations", DIR), "utt2dur: File too large; raise the limit"),
    "full disk, channels": (limited("choose_channel", DIR, 0), "reco2channel: File too large; raise the limit"),
    "tokenizer without a chat template": (tokenizer(no_template), "has no chat template; use a chat"),
    "tokenizer without an end of turn": (tokenizer(no_end), "how a turn ends"),
    "adapter of another encoder": (adapter_for_another_encoder, "the weights do not fit .*wide"),
    "adapter that does not fit": (heads_that_do_not_fit, "heads: 5 heads do not divide the encoder's width 24"),
    "text model as encoder": (text_model_as_encoder, "is not a speech encoder|cannot be loaded as a speech encoder"),
    "recording gone during training": (in_training(lambda scene: (scene.folder.parent / "audio/bob-1.wav").unlink()),
                                       "1 of 6 utterances could not be loaded, and data.max_bad_ratio is 0.*bob-1"),
    "recording cut during training": (in_training(
        lambda scene: os.truncate(scene.folder.parent / "audio/bob-1.wav", 99)),
        "1 of 6 utterances could not be loaded.*bob-1.*truncated"),
}
COUNTED = {
    "recording gone during training, tolerated": (
        in_training(lambda scene: (scene.folder.parent / "audio/bob-1.wav").unlink(), 0.01), "1 skipped: .*bob-1"),
    "10 hours in one file": (set_entry(lambda scene: str(ten_hours(scene.place / "long.wav")), "filter"),
                             r"too long +1  ann-1 \(36000.0 s\)"),
    "1 kHz": (set_entry(lambda scene: str(sound(scene.place / "a.wav", samples=tone(rate=1000), rate=1000)), "filter"),
              "too short +0"),
    "192 kHz": (set_entry(lambda scene: str(sound(scene.place / "a", "FLAC", "PCM_24", tone(rate=192000), 192000)),
                          "filter"), "too long +0"),
    "silence": (set_entry(lambda scene: str(sound(scene.place / "a.wav", samples=tone() * 0)), "filter"),
                "silence +1  ann-1"),
}


def ten_hours(path: Path) -> Path:
    """A wav file of 10 hours whose samples, all zero, take no room on the disk."""
    sound(path, samples=tone(0.1))
    size = 10 * 3600 * RATE * 2
    with open(path, "r+b") as file:
        file.seek(4)
        file.write((size + 36).to_bytes(4, "little"))
        file.seek(40)
        file.write(size.to_bytes(4, "little"))
    os.truncate(path, 44 + size)
    return path


def of_audio(make: Callable[[Path], str]) -> Callable[[Scene], Callable]:
    return set_entry(lambda scene: make(scene.place / "bad.audio"), "durations")


def of_tables(files: dict[str, list[str] | bytes | str]) -> Callable[[Scene], Callable]:
    def spoil(scene: Scene) -> Callable:
        for name, lines in files.items():
            scene.write(name, lines)
        return verb("validate", scene.folder)
    return spoil


BAD = {f"audio: {kind}": (of_audio(make), f"ann-1: .*(?:{says})") for kind, (make, says) in AUDIO.items()}
BAD |= {f"tables: {kind}": (of_tables(files), says) for kind, (files, says) in TABLES.items()} | OTHER | COUNTED


def status(run: Callable[[], None]) -> int:
    try:
        run()
    except SystemExit as end:
        return end.code or 0
    return 0


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name != ".bad_audio"}


def test_there_are_many_kinds():
    assert len(BAD) >= 60


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_refused_by_name_or_counted(scene, capsys, kind):
    spoil, says = BAD[kind]
    run = spoil(scene)
    before = contents(scene.folder)
    capsys.readouterr()
    ended = status(run)
    said = capsys.readouterr()
    assert ended == (0 if kind in COUNTED else 1), said
    assert re.search(says, said.out if kind in COUNTED else said.err), said
    assert kind in COUNTED or said.err.rpartition("error: ")[2].count("\n") < 40
    assert "Traceback" not in said.out + said.err
    after = contents(scene.folder)
    assert {name: after.get(name) for name in before} == before, "something was lost"
    assert not (scene.place / "stolen").exists(), "a command ran"
    assert kind in COUNTED or not (scene.place / "out").is_dir() or not any((scene.place / "out").iterdir())


@pytest.mark.parametrize("kind", AUDIO)
def test_bad_audio_is_skipped_and_counted_where_that_is_allowed(scene, capsys, kind):
    scene.entry(AUDIO[kind][0](scene.place / "bad.audio"))
    run = verb("filter", scene.folder, scene.place / "out", "--max_bad_ratio", 0.5, "--max_tokens_per_second", 99)
    assert status(run) == 0, capsys.readouterr()
    assert re.search(r"undecodable audio +1  ann-1", capsys.readouterr().out)
    assert list(read_table(scene.place / "out" / "text")) == IDS[1:]


@pytest.mark.parametrize("kind", TABLES)
def test_bad_tables_can_be_fixed_or_say_why_not(scene, capsys, kind):
    of_tables(TABLES[kind][0])(scene)
    if status(verb("fix", scene.folder)) == 0:
        assert status(verb("validate", scene.folder)) == 0, capsys.readouterr()
        assert status(verb("fix", scene.folder)) == 0 and "nothing to fix" in capsys.readouterr().out
    else:
        assert re.search("no utterance would be left; nothing was changed", capsys.readouterr().err)


@pytest.mark.parametrize("kind", ["audio: truncated flac", "tables: invalid UTF-8"])
def test_processes_end_with_one_message_as_well(scene, kind):
    BAD[kind][0](scene)
    verb_name = "durations" if kind.startswith("audio") else "validate"
    ended = subprocess.run([sys.executable, "-m", "blspkd.bin.data_dir", verb_name, str(scene.folder)], text=True,
                           capture_output=True, check=False)
    assert ended.returncode == 1 and re.search(BAD[kind][1], ended.stderr) and "Traceback" not in ended.stderr
