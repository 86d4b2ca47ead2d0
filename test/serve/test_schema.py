"""What requests may ask for: read right, or refused by the field's name."""

import base64

import pytest

from blspkd.serve.api_error import ApiError
from blspkd.serve.body import Field
from blspkd.serve.schema import read_chat, read_hear, read_transcription
from blspkd.serve.settings import Settings

SETTINGS = Settings(model_name="tiny", api_key="", max_new_tokens=100, default_new_tokens=50, max_characters=1000)
HELLO = [{"role": "user", "content": "Hello"}]
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt "
AUDIO = {"data": base64.b64encode(WAV).decode(), "format": "wav"}


def chat(**fields):
    return read_chat({"model": "tiny", "messages": HELLO, **fields}, SETTINGS)


def test_what_is_not_said_is_as_in_the_python_api():
    asked = read_chat({"messages": HELLO}, SETTINGS)
    assert (asked.options.temperature, asked.options.top_p, asked.options.seed, asked.options.stop) == (0, 1, None, ())
    assert asked.options.max_new_tokens == 50 and not asked.stream and not asked.include_usage


def test_every_option_arrives():
    asked = chat(max_completion_tokens=7, temperature=0.5, top_p=0.9, seed=-3, stop=["a", "b"], stream=True,
                 stream_options={"include_usage": True})
    assert (asked.options.max_new_tokens, asked.options.temperature, asked.options.top_p) == (7, 0.5, 0.9)
    assert (asked.options.seed, asked.options.stop, asked.stream, asked.include_usage) == (-3, ("a", "b"), True, True)
    assert chat(max_tokens=8).options.max_new_tokens == 8 and chat(stop="end").options.stop == ("end",)


def test_messages_arrive_with_audio_as_bytes():
    messages = [{"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Repeat:"},
                                             {"type": "input_audio", "input_audio": AUDIO}]},
                {"role": "assistant", "content": "Yes.", "refusal": None, "annotations": [], "audio": None,
                 "tool_calls": None, "function_call": None}, {"role": "user", "content": "And?", "name": "ann"}]
    assert chat(messages=messages).messages == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Repeat:"}, {"type": "audio", "audio": WAV}]},
        {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And?"}]


@pytest.mark.parametrize("fields", [
    {"user": "ann"}, {"metadata": {"a": "b"}}, {"store": False}, {"service_tier": "auto"}, {"safety_identifier": "x"},
    {"prompt_cache_key": "x"}, {"n": 1}, {"logprobs": False}, {"frequency_penalty": 0}, {"presence_penalty": 0.0},
    {"logit_bias": {}}, {"tools": []}, {"tool_choice": "none"}, {"response_format": {"type": "text"}},
    {"modalities": ["text"]}, {"tools": None}, {"seed": None}, {"stop": None}, {"stream_options": None}])
def test_what_changes_no_answer_is_ignored(fields):
    assert chat(**fields) == chat()


@pytest.mark.parametrize("fields", [
    {"n": 2}, {"n": True}, {"logprobs": True}, {"top_logprobs": 3}, {"frequency_penalty": 0.1},
    {"presence_penalty": -1}, {"logit_bias": {"5": 1}}, {"tools": [{"type": "function"}]}, {"tool_choice": "required"},
    {"functions": [{}]}, {"response_format": {"type": "json_object"}}, {"modalities": ["text", "audio"]},
    {"audio": {"voice": "alloy"}}, {"prediction": {}}, {"reasoning_effort": "high"}, {"web_search_options": {}},
    {"top_k": 5}, {"repetition_penalty": 1.0}, {"path": "x"}, {"channel": 0}])
def test_what_would_change_the_answer_and_cannot_be_done_is_refused(fields):
    with pytest.raises(ApiError) as raised:
        chat(**fields)
    assert (raised.value.status, raised.value.param) == (400, next(iter(fields)))


@pytest.mark.parametrize("fields, param", [
    ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 101}, "max_tokens"), ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 5.0}, "max_tokens"), ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"), ({"max_completion_tokens": -1},
                                                                    "max_completion_tokens"),
    ({"temperature": -0.1}, "temperature"), ({"temperature": 2.1}, "temperature"), ({"temperature": "hot"},
                                                                                    "temperature"),
    ({"temperature": True}, "temperature"), ({"top_p": 0}, "top_p"), ({"top_p": 1.1}, "top_p"), ({"seed": 0.5}, "seed"),
    ({"seed": 1 << 63}, "seed"), ({"stop": ["a"] * 5}, "stop"), ({"stop": ""}, "stop"), ({"stop": [1]}, "stop"),
    ({"stop": {"a": 1}}, "stop"), ({"stop": "x" * 501}, "stop"), ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": {"more": 1}}, "stream_options"), ({"model": 5}, "model")])
def test_values_out_of_range_are_named(fields, param):
    with pytest.raises(ApiError) as raised:
        chat(**fields)
    assert raised.value.param == param and str(raised.value).startswith(param)


@pytest.mark.parametrize("messages, param", [
    (None, "messages"), ([], "messages"), ("Hello", "messages"), (HELLO * 257, "messages"), (["Hello"], "messages[0]"),
    ([{"role": "user"}], "messages[0].content"), ([{"role": "user", "content": 5}], "messages[0].content"),
    ([*HELLO, {"role": "assistant", "content": None, "tool_calls": [{}]}], "messages[1]"),
    ([{"role": "user", "content": [{"type": "text", "text": "a"}] * 300}], "messages"),
    ([{"role": "user", "content": "x" * 1001}], "messages"),
    ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "messages[0].content[0].text"),
    *[([{"role": "user", "content": [part]}], "messages[0].content[0]") for part in (
        "text", {"type": "text"}, {"type": "image_url", "image_url": {"url": "file:///x"}},
        {"type": "audio_url", "audio_url": {"url": "http://x"}}, {"type": "audio", "audio": "x.wav"},
        {"type": "audio", "path": "x.wav"}, {"type": "file", "file": {}}, {"type": "input_audio"},
        {"type": "input_audio", "input_audio": AUDIO, "audio": "x.wav"}, {"type": ["text"], "text": "a"})]])
def test_messages_that_cannot_be_used_are_named(messages, param):
    with pytest.raises(ApiError) as raised:
        chat(messages=messages)
    assert (raised.value.status, raised.value.param) == (400, param)


@pytest.mark.parametrize("audio, param", [
    (None, "audio"), ("x.wav", "audio"), ({**AUDIO, "url": "http://x"}, "audio"), ({"data": AUDIO["data"]}, "audio"),
    ({**AUDIO, "format": "aiff"}, "audio.format"), ({**AUDIO, "format": ["wav"]}, "audio.format"),
    ({**AUDIO, "format": "mp3"}, "audio.data"), ({**AUDIO, "data": 5}, "audio.data"),
    ({**AUDIO, "data": "data:audio/wav;base64," + AUDIO["data"]}, "audio.data"), ({**AUDIO, "data": ""}, "audio.data"),
    ({**AUDIO, "data": "é"}, "audio.data"), ({**AUDIO, "data": AUDIO["data"][:-1]}, "audio.data"),
    ({**AUDIO, "data": base64.b64encode(b"/etc/hostname....").decode()}, "audio.data"),
    ({**AUDIO, "data": base64.b64encode(b"FORM\0\0\0\0AIFFCOMM....").decode()}, "audio.data")])
def test_recordings_that_cannot_be_used_are_named(audio, param):
    with pytest.raises(ApiError) as raised:
        read_hear({"audio": audio})
    assert (raised.value.status, raised.value.param) == (400, param)


FILE = Field(WAV, True)


def form(**fields):
    return {name: field if isinstance(field, Field) else Field(field.encode(), False) for name, field in fields.items()}


def test_forms_of_transcriptions_are_read_and_a_language_is_only_a_hint():
    asked = read_transcription(form(file=FILE, model="tiny", language="de", temperature="0.0", prompt=""), SETTINGS)
    assert (asked.recording, asked.response_format) == (WAV, "json")


@pytest.mark.parametrize("fields, param", [
    ({"file": "text"}, "file"), ({"response_format": "srt"}, "response_format"), ({"prompt": "Hm"}, "prompt"),
    ({"stream": "true"}, "stream"), ({"temperature": "0.5"}, "temperature"), ({"temperature": "x"}, "temperature"),
    ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]"), ({"model": "other"}, "model"),
    ({"model": Field(b"\xff", False)}, "model"), ({"file": Field(b"nonsense, not audio", True)}, "file")])
def test_forms_that_cannot_be_used_are_named(fields, param):
    with pytest.raises(ApiError) as raised:
        read_transcription({**form(file=FILE), **form(**fields)}, SETTINGS)
    assert raised.value.param == param


def test_a_form_without_a_file_is_told_so():
    with pytest.raises(ApiError, match="file: is missing"):
        read_transcription(form(model="tiny"), SETTINGS)
