"""/v1/audio/transcriptions and /v1/hear: the same as in Python."""

import base64
import io
import json
from dataclasses import asdict

import openai
import pytest
import soundfile


@pytest.fixture(scope="module")
def server(model, running):
    with running(model, max_seconds=100.0) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
        yield client


def transcribe(client, data: bytes, name: str = "speech.wav", **options):
    return client.audio.transcriptions.create(model="tiny", file=(name, data), **options)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg"])
def test_a_transcript_is_that_of_the_python_api(client, model, recording, kind):
    data = recording(1.5, 3, kind)
    assert transcribe(client, data, "x.bin").text == model.transcribe(data)


def test_a_long_recording_is_done_in_pieces(client, model, recording):
    data = recording(65.0, 4)
    assert transcribe(client, data).text == model.transcribe(data)


def test_forms_of_the_answer(client, recording):
    data = recording(1.5, 3)
    text = transcribe(client, data, language="de").text
    assert transcribe(client, data, response_format="text") == f"{text}\n"
    verbose = transcribe(client, data, response_format="verbose_json")
    assert verbose.text == text and verbose.duration == 1.5 and verbose.segments is None
    for wrong in ({"response_format": "srt"}, {"prompt": "Names: Ann"}, {"temperature": 0.5}, {"stream": True},
                  {"timestamp_granularities": ["word"]}):
        with pytest.raises(openai.BadRequestError) as raised:
            transcribe(client, data, **wrong)
        assert raised.value.param.startswith(next(iter(wrong)))


def test_recordings_that_cannot_be_used_are_told(client, recording):
    silent = io.BytesIO()
    soundfile.write(silent, [0.0] * 16000, 16000, format="WAV")
    for data, words in ((silent.getvalue(), "silent"), (recording(1.0, channels=2), "2 channels"),
                        (recording(101.0, rate=2000), "100 s"), (recording()[:5000], "truncated"),
                        (b"", "no recording")):
        with pytest.raises(openai.BadRequestError, match=words) as raised:
            transcribe(client, data)
        assert raised.value.param == "file"


def test_what_was_heard_is_that_of_the_python_api(server, ask_raw, model, recording):
    data = recording(2.0, 6)
    body = {"audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}
    status, _, answer = ask_raw(server.address, "POST", "/v1/hear", body)
    assert status == 200
    assert json.loads(answer) == json.loads(json.dumps(asdict(model.hear(data))))
