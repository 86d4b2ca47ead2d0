"""What a server may be told."""

import pytest

from blspkd.errors import ConfigError
from blspkd.serve.settings import Settings, is_loopback


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("BLSPKD_API_KEY", raising=False)


def test_only_this_machine_reaches_a_server_that_was_told_nothing():
    assert is_loopback(Settings().host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_addresses_of_this_machine_need_no_key(host):
    assert Settings(host=host).api_key == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.com", "127.0.0.1.example.com"])
def test_other_addresses_need_a_key(host, monkeypatch):
    with pytest.raises(ConfigError, match="BLSPKD_API_KEY"):
        Settings(host=host)
    monkeypatch.setenv("BLSPKD_API_KEY", "secret")
    assert Settings(host=host).api_key == "secret"


def test_the_key_is_not_printed():
    assert "secret" not in repr(Settings(api_key="secret"))


@pytest.mark.parametrize("wrong", [
    {"port": 65536}, {"port": -1}, {"max_batch": 0}, {"max_queue": -1}, {"max_seconds": float("nan")},
    {"timeout_seconds": float("inf")}, {"default_new_tokens": 5000}, {"model_name": " "}, {"api_key": "schlüssel"}])
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Settings(**wrong)
