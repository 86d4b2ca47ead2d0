"""What a server is told: where it listens, who may ask, and how much.

Safe by default: only this machine reaches it. Another address needs a key that clients have to give.
"""

import ipaddress
import os
from dataclasses import dataclass, field

from blspkd.errors import ConfigError

KEY_VARIABLE = "BLSPKD_API_KEY"
MIB = 1 << 20
ENGINES = ("transformers", "vllm")


@dataclass(frozen=True)
class Settings:
    """Raises ConfigError for values out of range, and for an address of the network without a key."""

    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0 or :: for all
    port: int = 8000  # 0: any that is free
    api_key: str = field(default_factory=lambda: os.environ.get(KEY_VARIABLE, ""), repr=False)  # "": none is asked for
    allowed_hosts: tuple[str, ...] = ()  # further names under which the server is reached, e.g. behind a proxy
    model_name: str = "blspkd"  # what clients call the model
    max_batch: int = 64  # requests that are answered together
    max_queue: int = 128  # requests that may wait for their turn; more are answered by 429
    max_queue_seconds: float = 7200.0  # of audio in the requests that wait: half a gigabyte
    max_seconds: float = 600.0  # of audio in one request
    max_body_bytes: int = 36 * MIB  # of one request: 25 MiB of audio in base64, and some text
    max_characters: int = 400_000  # of text in one request
    timeout_seconds: float = 120.0  # for a request's body to arrive, and from then on for its answer
    default_new_tokens: int = 256  # length of a reply whose request names none
    max_new_tokens: int = 4096  # longest reply that a request can ask for
    engine: str = ENGINES[0]  # what generates
    vllm_python: str = ""  # engine vllm: the interpreter of an environment that has vLLM

    def __post_init__(self):
        object.__setattr__(self, "api_key", self.api_key.strip())  # as clients' are: headers carry no blanks around it
        for name in ("max_batch", "max_queue", "max_queue_seconds", "max_seconds", "max_body_bytes", "max_characters",
                     "timeout_seconds", "default_new_tokens", "max_new_tokens"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: {getattr(self, name)} is not above 0")
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"port: {self.port} is none; choose one from 1024 to 65535, or 0 for any that is free")
        if self.default_new_tokens > self.max_new_tokens:
            raise ConfigError(f"default_new_tokens: {self.default_new_tokens} is above max_new_tokens, "
                              f"{self.max_new_tokens}")
        if self.engine not in ENGINES:
            raise ConfigError(f"engine: there is no '{self.engine}'; choose {' or '.join(ENGINES)}")
        if bool(self.vllm_python) != (self.engine == "vllm"):
            raise ConfigError("engine: vllm and vllm_python, the interpreter of an environment that has vLLM, belong "
                              "together; give both or neither")
        if not self.model_name.strip():
            raise ConfigError("model_name: is empty; name the model as clients shall call it")
        if not self.api_key.isascii():
            raise ConfigError("api_key: has characters that headers cannot carry; use ASCII")
        if not is_loopback(self.host) and not self.api_key:
            raise ConfigError(f"host: {self.host} can be reached from other machines, which needs a key that clients "
                              f"have to give: set {KEY_VARIABLE}, or stay with 127.0.0.1")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
