"""Any server with OpenAI's completions endpoint: vLLM, SGLang, llama.cpp, Text Generation Inference, ...

Prompts go as token ids. How token ids come back is found out by asking (`FORMS`); a server that only tells texts is
used, too: they are tokenised again.
"""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blspkd.config import ContinuationConfig
from blspkd.errors import ConfigError, ModelError
from blspkd.generation.engines.engine import Engine, Request, Written, check_temperature
from blspkd.generation.engines.server import Server, ServerError

if TYPE_CHECKING:
    from blspkd.generation.text_side import TextSide

log = logging.getLogger(__name__)

SEED_BITS = 31  # some servers take no more
UNKNOWN = "unknown"
REFUSALS = (400, 413, 422)  # of one request for what is in it
# Not OpenAI's own: defaults of the model or the server (llama.cpp: top_k 40, min_p 0.05) must not interfere.
FURTHER = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0, "skip_special_tokens": False}
# How token ids come back, best first: the fields that ask for it.
FORMS: dict[str, dict[str, Any]] = {
    "token_ids": {**FURTHER, "return_token_ids": True},
    "logprobs": {**FURTHER, "logprobs": 1, "return_tokens_as_token_ids": True},
    "text": FURTHER,  # they do not
    "text of a strict server": {},  # which refuses fields that OpenAI does not have
}
TEXTS = {"text", "text of a strict server"}
TRIED = "Grüße! 12 bags, naïve 你好."  # rare characters come out differently in different tokenizers


class OpenAiEngine(Engine):
    """A server that somebody else has started, with the same LLM: stage 3 trains with that of `--llm`."""

    name = "openai"

    @dataclass
    class Options:
        url: str = ""  # the server's address, e.g. http://127.0.0.1:8000
        model: str = ""  # as the server calls it; empty: the only one that it has
        api_key_variable: str = ""  # environment variable with the key, e.g. OPENAI_API_KEY; empty: none is sent
        timeout_seconds: float = 120.0  # for one answer
        parallel: int = 16  # requests under way at a time
        retries: int = 6  # further tries, with growing waits, where the server is busy or gone

    def __init__(self, options: Options, config: ContinuationConfig):
        super().__init__(options, config)
        check_temperature(config, self.name)
        if config.dtype != "float32":
            raise ConfigError(f"dtype: {config.dtype}: engine openai cannot choose, the server has done so; remove it, "
                              "or set --dtype float32, which is not recorded")
        if not options.timeout_seconds > 0 or options.parallel < 1 or options.retries < 0:
            raise ConfigError("engine_options: timeout_seconds is above 0, parallel at least 1, retries at least 0")
        key = _key_in(options.api_key_variable) if options.api_key_variable else ""
        self.server = Server(options.url, key, options.timeout_seconds, options.retries)
        self.model, self.form = options.model, ""
        self.said: dict[str, str] = {}  # what the server has told of itself

    def recorded(self, options: dict, llm: str) -> dict:
        recorded = super().recorded(options, llm)
        del recorded["dtype"]  # it is the server's
        return recorded

    def identity(self, llm: str) -> dict[str, str]:
        from blspkd.generation.text_side import TextSide  # imported here: mistakes in the options do not wait for it

        self._meet(TextSide.of(llm, self.config.prompt))
        return self.said

    def _meet(self, text: "TextSide") -> None:
        """Ask the server what it is and how it answers, and see that it has the LLM's tokenizer."""
        owner = self._choose_model()
        system_fingerprint = self._find_form(text)
        if self.form in TEXTS:
            log.warning("%s: tells no token ids: its texts are tokenised again, and control tokens in them are lost",
                        self.server.url)
        self._check_tokenizer(text)
        self.said = {"version": self._version(), "model": self.model, "owned_by": owner,
                     "system_fingerprint": system_fingerprint, "ids": self.form}

    def load(self, text: "TextSide", positions: int, device: str, job: int) -> dict[str, str]:
        if not self.said:
            self._meet(text)
        self.text = text
        self.pool = ThreadPoolExecutor(self.options.parallel)
        return {"server": self.said["version"]}

    def write(self, requests: Sequence[Request]) -> list[Written]:
        answers = [self.pool.submit(self._write, request) for request in requests]
        try:
            done, _ = wait(answers, return_when=FIRST_EXCEPTION)
            for answer in done:
                answer.result()
        except BaseException:
            self.pool.shutdown(wait=False, cancel_futures=True)
            self.server.close()  # what is under way in other threads is of no use
            raise
        return [answer.result() for answer in answers]

    def _write(self, request: Request) -> Written:
        config = self.config
        chosen = {"temperature": config.temperature, "top_p": config.top_p} if config.do_sample else {
            "temperature": 0, "top_p": 1}
        stops = {"stop_token_ids": self.text.ends} if FORMS[self.form] else {}
        try:
            choice = self._complete(FORMS[self.form], request.ids, max_tokens=config.max_new_tokens,
                                    seed=request.seed >> 128 - SEED_BITS, **chosen, **stops)
        except ServerError as error:
            if error.status not in REFUSALS:
                raise
            raise ServerError(f"utterance {request.utt_id}: {error}", error.status) from None
        if choice["system_fingerprint"] != self.said["system_fingerprint"]:
            raise ServerError(f"{self.server.url}: is another server than at the beginning (system_fingerprint "
                              f"{choice['system_fingerprint']}, it was {self.said['system_fingerprint']}); start the "
                              "same command again to have all written by this one")
        reason = choice.get("finish_reason")
        if reason not in ("stop", "length"):
            raise ServerError(f"{self.server.url}: utterance {request.utt_id}: finish_reason is {reason!r}, not stop "
                              "or length; see the server's log")
        ids = self._ids(choice, self.text)
        if any(not 0 <= token < self.text.vocabulary for token in ids):
            raise self._misfit(self.text, f"it wrote token {max(ids)} of a vocabulary of {self.text.vocabulary}")
        if self.form not in TEXTS and len(ids) > config.max_new_tokens:
            raise ServerError(f"{self.server.url}: utterance {request.utt_id}: it wrote {len(ids)} tokens, though "
                              f"max_tokens was {config.max_new_tokens}; serve the LLM with a server that heeds it")
        return Written.until_end(ids, self.text.ends, reason == "stop")

    def _complete(self, form: dict[str, Any], prompt: list[int] | str, **options) -> dict:
        """The one choice of a completion, with the answer's system_fingerprint. Raises ServerError."""
        body = {"model": self.model, "prompt": prompt, "n": 1, "stream": False, "presence_penalty": 0,
                "frequency_penalty": 0, **form, **options}
        answer = self.server.ask("POST", "/v1/completions", body)
        choices = answer.get("choices")
        if not (isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict)
                and isinstance(choices[0].get("text"), str)):
            raise ServerError(f"{self.server.url}/v1/completions: the answer has no choices[0].text; is this the "
                              "address of a server with OpenAI's API?")
        return choices[0] | {"system_fingerprint": str(answer.get("system_fingerprint") or UNKNOWN)}

    def _ids(self, choice: dict, text: "TextSide") -> list[int]:
        """Token ids of a choice, in the form that was found. Raises ServerError where they are not there."""
        if self.form in TEXTS:
            return text.prompt.response(choice["text"])[:-1] if choice["text"] else []
        ids = _told_ids(self.form, choice)
        if ids is None:
            raise ServerError(f"{self.server.url}: an answer has no token ids, though others had ({self.form}); start "
                              "the same command again")
        return ids

    def _choose_model(self) -> str:
        """Choose the model where none is named; who owns it. Raises ConfigError for one that is not there."""
        try:
            models = self.server.ask("GET", "/v1/models").get("data")
        except ServerError as error:
            if error.status != 404:
                raise
            models = None
        models = {model["id"]: model for model in (models if isinstance(models, list) else [])
                  if isinstance(model, dict) and isinstance(model.get("id"), str)}
        if not self.model and len(models) != 1:
            raise ConfigError(f"engine_options.model: {self.server.url} has "
                              f"{', '.join(models) or 'no list of models'}; name one")
        if self.model and models and self.model not in models:
            raise ConfigError(f"engine_options.model: {self.server.url} has no {self.model}, but {', '.join(models)}")
        self.model = self.model or next(iter(models))
        return str(models.get(self.model, {}).get("owned_by") or UNKNOWN)

    def _version(self) -> str:
        try:
            return str(self.server.ask("GET", "/version").get("version") or UNKNOWN)
        except ServerError as error:
            if error.status or "no JSON" in str(error):
                return UNKNOWN
            raise

    def _find_form(self, text: "TextSide") -> str:
        """Find the best form that this server has; its system_fingerprint."""
        prefix, suffix = text.prompt.around()
        usable, refused = {}, None
        for form, fields in FORMS.items():
            try:
                choice = self._complete(fields, prefix + suffix, max_tokens=1, temperature=0)
            except ServerError as error:
                if error.status not in REFUSALS:
                    raise
                refused = error
                continue
            usable[form] = choice
            if form in TEXTS or _told_ids(form, choice) is not None:
                break
        if not any(form in TEXTS or _told_ids(form, choice) is not None for form, choice in usable.items()):
            raise ServerError(f"{refused}; is its model '{self.model}' the LLM {text.llm}?", refused.status) from None
        self.form, choice = list(usable.items())[-1]
        return choice["system_fingerprint"]

    def _check_tokenizer(self, text: "TextSide") -> None:
        """Raises ModelError where the server reads a text as other tokens, or tokens as another text."""
        expected = text.tokenizer(TRIED).input_ids
        with_ids = self._try(TRIED, max_tokens=1, return_token_ids=True)
        if isinstance(read := with_ids.get("prompt_token_ids"), list):
            if read != expected and read[-len(expected):] != expected:
                raise self._misfit(text, f"it reads '{TRIED}' as tokens {read}, not {expected}")
            return
        ids = text.tokenizer(TRIED, add_special_tokens=False).input_ids
        echoed = self._try(ids, max_tokens=1, echo=True).get("text", "")
        if len(echoed) < len(TRIED):  # it does not know `echo`
            log.warning("%s: whether it has the tokenizer of %s cannot be found out", self.server.url, text.llm)
        elif TRIED not in echoed:
            raise self._misfit(text, f"it reads the tokens of '{TRIED}' as '{echoed[:60]}'")

    def _try(self, prompt: list[int] | str, **options) -> dict:
        """A completion that the server may refuse; {} then."""
        try:
            return self._complete({}, prompt, temperature=0, **options)
        except ServerError as error:
            if error.status not in REFUSALS:
                raise
            return {}

    def _misfit(self, text: "TextSide", why: str) -> ModelError:
        return ModelError(f"{self.server.url}: its model '{self.model}' is not the LLM {text.llm}: {why}; serve that "
                          "LLM, or name the served one with --llm")


def _key_in(variable: str) -> str:
    """The key in an environment variable. Raises ConfigError, which shows no key that stands in the name's place."""
    key = os.environ.get(variable, "").strip()
    if not (key and key.isascii() and key.isprintable()):
        shown = variable if variable.isidentifier() and variable.isupper() else "variable of this name"
        raise ConfigError(f"engine_options.api_key_variable: the environment has no {shown} with a key in it; export "
                          "one (the name of the variable stands here, never the key)")
    return key


def _told_ids(form: str, choice: dict) -> list[int] | None:
    """The token ids of an answer; None where it has none."""
    if form == "token_ids":
        ids = choice.get("token_ids")
        return ids if isinstance(ids, list) and all(type(token) is int for token in ids) else None
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("tokens") if isinstance(logprobs, dict) else None
    words = [str(token).partition(":") for token in tokens] if isinstance(tokens, list) else [("", "", "")]
    if any(name != "token_id" or not number.isdecimal() for name, _, number in words):
        return None
    return [int(number) for _, _, number in words]
