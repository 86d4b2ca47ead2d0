"""A noisy copy of a data directory: the SNR is met, the noise has the speech's spectrum, and nothing else changes."""

import filecmp
import json

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.bin import add_noise as command
from blspkd.data.operations import noise
from blspkd.data.operations.noise import WINDOW_SECONDS, add_noise, mix, speech_spectrum
from blspkd.errors import AudioError, ConfigError, DataError
from blspkd.kaldi.data_dir import KaldiDir, read_table, write_table

IDS = ["a+b=c-1", "größe@1", "s#1,~(x)", "z.wav-[%d]"]


@pytest.fixture
def source(tmp_path):
    """Four utterances, low-passed noise of 0.4 to 0.7 s, of two sampling rates, with references and word times."""
    random = np.random.default_rng(0)
    folder = tmp_path / "data" / "test"
    tables = {name: {} for name in ("wav.scp", "text", "text.qa", "utt2spk", "spk2utt", "utt2dur", "word_times")}
    for number, utt_id in enumerate(IDS):
        rate = (16000, 8000)[number % 2]
        samples = np.convolve(random.standard_normal(int((0.4 + 0.1 * number) * rate)), np.ones(8) / 8, "same") * 0.2
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{number}.wav", samples, rate, subtype="PCM_16")
        for name, value in (("wav.scp", f"{folder}/{number}.wav"), ("text", "six bags"), ("text.qa", "six"),
                            ("utt2spk", utt_id), ("spk2utt", utt_id), ("utt2dur", f"{len(samples) / rate:.4f}"),
                            ("word_times", "0.1 0.2 six")):
            tables[name][utt_id] = value
    for name, table in tables.items():
        write_table(folder / name, table)
    return folder


def samples_of(folder) -> dict[str, tuple[np.ndarray, int]]:
    return {utt_id: soundfile.read(path) for utt_id, path in read_table(folder / "wav.scp").items()}


def snr_db(speech: np.ndarray, noisy: np.ndarray) -> float:
    return 10 * np.log10(np.mean(speech**2) / np.mean((noisy - speech) ** 2))


@pytest.mark.parametrize("snr", [20.0, 10.0, 0.0])
def test_the_snr_is_met(source, tmp_path, snr):
    assert add_noise(source, tmp_path / "noisy", tmp_path / "wav", snr)
    speech, noisy = samples_of(source), samples_of(tmp_path / "noisy")
    for utt_id in IDS:
        assert noisy[utt_id][1] == speech[utt_id][1]
        assert abs(snr_db(speech[utt_id][0], noisy[utt_id][0]) - snr) < 0.1


def test_all_other_files_are_copied_and_the_directory_is_valid(source, tmp_path):
    add_noise(source, tmp_path / "noisy", tmp_path / "wav", 10)
    names = {file.name for file in (tmp_path / "noisy").iterdir()}
    assert names == {"wav.scp", "text", "text.qa", "utt2spk", "spk2utt", "utt2dur", "word_times", "noise.json"}
    assert all(filecmp.cmp(source / name, tmp_path / "noisy" / name, shallow=False)
               for name in names - {"wav.scp", "noise.json"})
    assert len(KaldiDir.read(tmp_path / "noisy")) == 4
    assert all(soundfile.info(path).subtype == "PCM_16" for path in read_table(tmp_path / "noisy/wav.scp").values())


def test_noise_depends_on_seed_and_id_alone(source, tmp_path):
    add_noise(source, tmp_path / "one", tmp_path / "wav1", 5, seed=3, num_jobs=1)
    add_noise(source, tmp_path / "two", tmp_path / "wav2", 5, seed=3, num_jobs=3)
    add_noise(source, tmp_path / "other", tmp_path / "wav3", 5, seed=4)
    one, two, other = (samples_of(tmp_path / name) for name in ("one", "two", "other"))
    for utt_id in IDS:
        assert np.array_equal(one[utt_id][0], two[utt_id][0])
        assert not np.array_equal(one[utt_id][0], other[utt_id][0])


def test_the_noise_has_the_spectrum_of_the_speech(source, tmp_path):
    """Per band of 500 Hz, averaged over many draws; the speech here falls off by some 30 dB."""
    utterances = list(KaldiDir.read(source).utterances.values())
    spectrum = speech_spectrum(utterances)
    draw = noise._shaped(spectrum)
    power = np.zeros(257)
    for seed in range(20):
        frames = draw(16384, 16000, np.random.default_rng(seed)).reshape(-1, 512) * np.hanning(512)
        power += (np.abs(np.fft.rfft(frames)) ** 2).mean(axis=0)
    assert len(spectrum) == 8000 * WINDOW_SECONDS + 1 == 257
    found, expected = (one[:256].reshape(16, 16).sum(axis=1) / one.sum() for one in (power, spectrum))
    loud = expected > 1e-3
    assert loud.sum() > 5
    np.testing.assert_allclose(10 * np.log10(found[loud]), 10 * np.log10(expected[loud]), atol=1.0)


def test_a_sum_that_would_clip_is_made_softer(source, tmp_path):
    loud = np.sin(np.arange(8000) * 0.3) * 0.99
    soundfile.write(source / "0.wav", loud, 16000, subtype="PCM_16")
    add_noise(source, tmp_path / "noisy", tmp_path / "wav", -5)
    noisy = samples_of(tmp_path / "noisy")[IDS[0]][0]
    assert np.abs(noisy).max() < 1 and (np.abs(noisy) > 0.9999).sum() <= 2


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 400), st.floats(-20, 40, allow_subnormal=False), st.floats(1e-3, 1.0), st.integers(0, 99))
def test_mix_keeps_the_ratio_whatever_the_level(size, snr, level, seed):
    random = np.random.default_rng(seed)
    speech, added = random.standard_normal((2, size)) * level
    mixed = mix(speech, added, snr)
    assert np.abs(mixed).max() <= 1
    # mixed = a speech + b added, solved for a and b
    (a, b), *_ = np.linalg.lstsq(np.stack([speech, added], axis=1), mixed, rcond=None)
    assert 20 * np.log10(a / b) + 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(snr, abs=1e-4)


def test_a_second_run_does_nothing_and_a_killed_one_goes_on(source, tmp_path, monkeypatch):
    places = (tmp_path / "noisy", tmp_path / "wav")
    made, real = [], noise._make

    def make_two(utterance, *rest):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(utterance.utt_id)
        real(utterance, *rest)

    monkeypatch.setattr(noise, "_make", make_two)
    with pytest.raises(KeyboardInterrupt):
        add_noise(source, *places, 10)
    assert not places[0].exists() and len(list(places[1].iterdir())) == 2
    monkeypatch.setattr(noise, "_make", lambda utt, *rest: (made.append(utt.utt_id), real(utt, *rest)))
    assert add_noise(source, *places, 10)
    assert sorted(made) == sorted(IDS)
    before = {path: path.stat().st_mtime_ns for place in places for path in place.iterdir()}
    assert not add_noise(source, *places, 10)
    assert before == {path: path.stat().st_mtime_ns for place in places for path in place.iterdir()}


def test_another_snr_or_changed_tables_are_noticed(source, tmp_path):
    add_noise(source, tmp_path / "noisy", tmp_path / "wav", 10)
    (source / "text.qa").write_text((source / "text.qa").read_text().replace("six", "ten"), encoding="utf-8")
    assert add_noise(source, tmp_path / "noisy", tmp_path / "wav", 10)
    assert "ten" in (tmp_path / "noisy/text.qa").read_text()
    assert add_noise(source, tmp_path / "noisy", tmp_path / "wav", 0)
    assert json.loads((tmp_path / "noisy/noise.json").read_text())["snr_db"] == 0
    speech, noisy = samples_of(source), samples_of(tmp_path / "noisy")
    assert abs(snr_db(speech[IDS[0]][0], noisy[IDS[0]][0])) < 0.1


def test_segments_become_recordings(source, tmp_path):
    recordings = dict(zip(IDS, read_table(source / "wav.scp").values(), strict=True))
    write_table(source / "wav.scp", {"recording": recordings[IDS[2]]})
    write_table(source / "segments", {utt_id: f"recording {0.1 * i:.1f} {0.1 * i + 0.2:.1f}"
                                      for i, utt_id in enumerate(IDS)})
    write_table(source / "utt2dur", dict.fromkeys(IDS, "0.2"))
    add_noise(source, tmp_path / "noisy", tmp_path / "wav", 10)
    assert not (tmp_path / "noisy/segments").exists()
    assert {len(samples) for samples, _ in samples_of(tmp_path / "noisy").values()} == {3200}


def test_pieces_of_recordings(source, tmp_path):
    """One recording is shorter than any utterance and stereo; both sound alike here, a tone that must be found."""
    (tmp_path / "noise/deep").mkdir(parents=True)
    tone = np.sin(2 * np.pi * 1000 * np.arange(48000) / 16000) * 0.5
    soundfile.write(tmp_path / "noise/long.flac", tone, 16000)
    soundfile.write(tmp_path / "noise/deep/short.wav", np.stack([tone[:1600]] * 2, axis=1), 16000)
    add_noise(source, tmp_path / "noisy", tmp_path / "wav", 6, noise_dir=tmp_path / "noise")
    speech, noisy = samples_of(source), samples_of(tmp_path / "noisy")
    for utt_id in IDS:
        added = noisy[utt_id][0] - speech[utt_id][0]
        spectrum = np.abs(np.fft.rfft(added)) ** 2
        peak = np.argmax(spectrum) * speech[utt_id][1] / len(added)
        assert abs(peak - 1000) < 20
        assert abs(snr_db(speech[utt_id][0], noisy[utt_id][0]) - 6) < 0.1


def test_mistakes_name_the_place(source, tmp_path, capsys):
    places = (tmp_path / "noisy", tmp_path / "wav")
    with pytest.raises(ConfigError, match="snr_db"):
        add_noise(source, *places, float("nan"))
    with pytest.raises(DataError, match="no recordings"):
        add_noise(source, *places, 10, noise_dir=tmp_path / "nosuch")
    with pytest.raises(DataError, match="choose another place"):
        add_noise(source, source, tmp_path / "wav", 10)
    soundfile.write(source / "1.wav", np.zeros(4000), 8000)
    with pytest.raises(AudioError, match=f"{IDS[1]}.*digital silence"):
        add_noise(source, *places, 10)
    assert not places[0].exists()
    with pytest.raises(SystemExit) as ended:
        command.main([str(source), str(places[0]), "--wav_dir", str(places[1]), "--snr_db", "10"])
    assert ended.value.code == 1 and "digital silence" in capsys.readouterr().err
