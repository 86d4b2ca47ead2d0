"""`blspkd features`: encoder frames, firing weights and speech tokens as Kaldi archives, in resumable parts."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from blspkd.audio.samples import load
from blspkd.bin.blspkd import main
from blspkd.config import ModelConfig, PromptConfig
from blspkd.evaluation import speech_matrices
from blspkd.kaldi.data_dir import KaldiDir, read_table
from blspkd.kaldi.matrices import read_matrices
from blspkd.models.speech_llm import SpeechLlm

pytestmark = pytest.mark.skipif(not any(map(importlib.util.find_spec, ("omniio", "kaldiio"))),
                                reason="neither omniio nor kaldiio is installed")


def run(*words) -> int:
    try:
        main(["features", *map(str, words), "--device", "cpu"])
    except SystemExit as end:
        return end.code
    return 0


def waveforms(data_dir) -> dict[str, np.ndarray]:
    return {utterance.utt_id: load(utterance.audio) for utterance in KaldiDir.read(data_dir)}


def read(folder) -> dict[str, np.ndarray]:
    matrices = dict(read_matrices(folder / "feats.scp"))
    assert read_table(folder / "utt2num_frames") == {key: str(len(matrix)) for key, matrix in matrices.items()}
    return matrices


def test_tokens_are_those_that_the_llm_reads(trained, model, data_dir, tmp_path, capsys):
    assert run(trained, data_dir, tmp_path / "out", "--what", "tokens") == 0
    assert capsys.readouterr().out == ""
    tokens, audio = read(tmp_path / "out"), waveforms(data_dir)
    assert list(tokens) == sorted(audio)
    for utt_id, matrix in tokens.items():
        expected = model.listener.listen([audio[utt_id]])[0].numpy()
        assert matrix.shape == expected.shape and np.allclose(matrix, expected, atol=1e-4)


def test_the_alpha_of_an_utterance_add_up_to_its_tokens(trained, model, data_dir, tmp_path):
    assert run(trained, data_dir, tmp_path / "out", "--what", "alpha") == 0
    for utt_id, alpha in read(tmp_path / "out").items():
        heard = model.hear((16000, waveforms(data_dir)[utt_id]))
        assert alpha.ndim == 1 and np.allclose(alpha, heard.alpha, atol=1e-4)
        assert abs(alpha.sum() - len(heard.tokens)) <= 1


def test_frames_are_the_encoders(trained, model, data_dir, tmp_path):
    assert run(trained, data_dir, tmp_path / "out", "--batch_size", "5") == 0
    frames, network = read(tmp_path / "out"), model.listener.model
    utt_id, audio = next(iter(waveforms(data_dir).items()))
    features = model.listener.extractor(audio)
    with torch.no_grad():
        expected, lengths = network.encode(features.windows[0][None], torch.tensor(features.lengths), [1])
    assert frames[utt_id].shape == (int(lengths[0]), network.encoder.width)
    assert np.allclose(frames[utt_id], expected[0].numpy(), atol=1e-4)


def test_a_second_run_does_nothing_and_a_killed_one_continues(trained, data_dir, tmp_path, monkeypatch, capsys):
    folder, words = tmp_path / "out", {"what": "frames", "batch_size": 2, "part_size": 2}
    listener = speech_matrices.Listener.from_pretrained(trained)
    heard: list[str] = []
    rows = speech_matrices._Speech.rows

    def counted(self, utt_ids, waveforms):
        if len(heard) == 6 and "killed" not in heard:
            heard.append("killed")
            raise KeyboardInterrupt
        heard.extend(utt_ids)
        return rows(self, utt_ids, waveforms)

    monkeypatch.setattr(speech_matrices._Speech, "rows", counted)
    with pytest.raises(KeyboardInterrupt):
        speech_matrices.write_speech_matrices(lambda: listener, {"model": "m"}, data_dir, folder, **words)
    assert not (folder / "feats.scp").exists()
    assert speech_matrices.write_speech_matrices(lambda: listener, {"model": "m"}, data_dir, folder, **words)
    assert len(heard) == 12 + 1 and len(set(heard)) == 12 + 1
    assert not speech_matrices.write_speech_matrices(lambda: pytest.fail("loaded"), {"model": "m"}, data_dir, folder,
                                                     **words)
    archives = sorted(path.name for path in folder.glob("feats.*"))
    assert archives == [*(f"feats.{number}.ark" for number in range(1, 7)), "feats.scp"]
    read(folder)


def test_a_lost_archive_is_written_again(trained, data_dir, tmp_path, capsys):
    assert run(trained, data_dir, tmp_path / "out") == 0
    assert run(trained, data_dir, tmp_path / "out") == 0
    assert "is up to date" in capsys.readouterr().err
    before = read(tmp_path / "out")
    (tmp_path / "out" / "feats.1.ark").unlink()
    assert run(trained, data_dir, tmp_path / "out") == 0
    assert all(np.array_equal(matrix, before[key]) for key, matrix in read(tmp_path / "out").items())


def test_a_folder_with_other_things_stays_as_it_is(trained, data_dir, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in Path(data_dir).iterdir()}
    assert run(trained, data_dir, data_dir) == 1
    assert "has other things in it" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path(data_dir).iterdir()} == before


@pytest.mark.parametrize("names", [("feats.scp", "feats.1.ark", "utt2num_frames"), ("features.json",),
                                   ("parts/part-00000.jsonl",), ("parts/notes",)], ids=",".join)
def test_what_has_our_names_and_is_not_ours_stays_as_it_is(trained, data_dir, tmp_path, capsys, names):
    for name in names:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("{}")
    assert run(trained, data_dir, tmp_path / "out") == 1
    assert "has other things in it" in capsys.readouterr().err
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == len(names) and {path.read_text() for path in files} == {"{}"}


def test_what_somebody_put_into_our_folder_stays_as_it_is(trained, data_dir, tmp_path, capsys):
    assert run(trained, data_dir, tmp_path / "out") == 0
    (tmp_path / "out" / "parts").mkdir()
    (tmp_path / "out" / "parts" / "notes").write_text("mine")
    for words in ((), ("--what", "alpha")):
        assert run(trained, data_dir, tmp_path / "out", *words) == 1
        assert "has other things in it (parts/notes)" in capsys.readouterr().err
        assert (tmp_path / "out" / "parts" / "notes").read_text() == "mine"


def test_what_a_kill_at_the_very_beginning_left_is_ours(trained, data_dir, tmp_path):
    (tmp_path / "out" / "parts").mkdir(parents=True)
    (tmp_path / "out" / "parts" / "fingerprint.json.tmp-0123abcd-77").touch()
    assert run(trained, data_dir, tmp_path / "out") == 0


def test_a_link_to_a_folder_is_followed(trained, data_dir, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "there")
    for what in ("frames", "alpha"):
        assert run(trained, data_dir, tmp_path / "out", "--what", what) == 0
        assert (tmp_path / "out").is_symlink() and read(tmp_path / "out").keys() == read(tmp_path / "there").keys()


@pytest.mark.parametrize("place", ["/proc/x", "a_file", "a_file/x"])
def test_a_place_where_no_folder_can_be_is_told_before_the_model_is_loaded(trained, data_dir, tmp_path, monkeypatch,
                                                                           capsys, place):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("blspkd.models.listener.Listener.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    Path("a_file").write_text("mine")
    assert run(trained, data_dir, place) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {place}: ") and "name another place" in printed and printed.count("\n") == 1
    assert Path("a_file").read_text() == "mine"


def test_a_recording_that_cannot_be_used_is_named(trained, data_dir, tmp_path, capsys):
    recording = next(Path(data_dir).glob("*.wav"))
    recording.write_bytes(b"no audio")
    assert run(trained, data_dir, tmp_path / "out") == 1
    assert f"utterance {recording.stem}: " in capsys.readouterr().err


def test_an_adapter_that_does_not_fire_has_no_alpha(tiny_llm, tiny_encoder, data_dir, tmp_path, capsys):
    config = ModelConfig(llm=tiny_llm, speech_encoder=tiny_encoder, adapter="conv", pad_to_30s=False)
    SpeechLlm.from_config(config, PromptConfig("Continue:")).save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", data_dir, tmp_path / "out", "--what", "alpha") == 1
    assert "does not fire" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out")
    assert run(tmp_path / "model", data_dir, tmp_path / "out", "--what", "tokens") == 0
