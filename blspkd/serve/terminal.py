"""A conversation on the terminal: typed lines, recordings and the microphone; replies appear while they are written."""

import glob
import shlex
import sys
from pathlib import Path
from typing import Any

from blspkd.audio.handed import MISSING, chosen_channel, local_path
from blspkd.audio.samples import AudioSource, duration, open_file
from blspkd.data.conversation import ask
from blspkd.errors import AudioError, BlspkdError, ConfigError
from blspkd.models.chat import SpeechLLM
from blspkd.models.past import Past
from blspkd.serve.inputs import recorded
from blspkd.serve.replies import say_stream, tell, told

HELP = """\
Type a line to send it. Before it, attach what it is about; an empty line sends that alone.
  /audio FILE ...   attach recordings
  /mic [SECONDS]    record from the microphone and attach that
  /new              begin a new conversation
  /quit             end (or Ctrl-D); Ctrl-C cancels a reply"""


class TerminalChat:
    """One conversation after another."""

    def __init__(self, model: SpeechLLM, instruction: str = "", system: str = "", channel: int | None = None,
                 **options: Any):
        """instruction: goes with recordings that are sent with an empty line; options: of `ChatOptions`."""
        self.model, self.instruction, self.system = model, instruction, system
        self.channel, self.options = channel, options
        self.attached: list[dict] = []
        self.begin()

    def begin(self) -> None:
        """Forget the conversation."""
        self.messages: list[dict] = [{"role": "system", "content": self.system}] if self.system else []
        self.past = Past()

    def run(self) -> None:
        """Read lines until /quit or the end of the input."""
        tell("/help shows what can be typed, Ctrl-D ends")
        while True:
            try:
                line = _ask(f"[{len(self.attached)} attached] > " if self.attached else "> ")
            except EOFError:
                if sys.stdin.isatty():
                    tell("")
                return
            except KeyboardInterrupt:
                tell("\n(Ctrl-D or /quit ends)")
                continue
            if line.strip() in ("/quit", "/exit"):
                return
            try:
                self.take(line.strip())
            except BlspkdError as error:
                tell(f"error: {told(error)}")
            except KeyboardInterrupt:
                tell("\n(cancelled; that turn is forgotten)")

    def take(self, line: str) -> None:
        """One line that was typed. Raises BlspkdError."""
        word, _, rest = line.partition(" ")
        if word == "/audio":
            for name in _file_names(rest):
                try:
                    self.attach(name)
                except AudioError as error:
                    tell(f"error: {error}")
        elif word == "/mic":
            self.attach_recording(_seconds(rest))
        elif word == "/new":
            self.attached.clear()
            self.begin()
            tell("(a new conversation)")
        elif word == "/help":
            tell(HELP)
        elif word.startswith("/"):
            raise ConfigError(f"{word}: there is no such command; /help shows them")
        elif line or self.attached:
            self.send(ask(self.model.listener.prompt.config, line or self.instruction, self.attached))

    def attach(self, name: str) -> None:
        """Put a recording into the next message. Raises AudioError where it cannot be read."""
        path = local_path(name, name)
        with open_file(path, missing=MISSING) as file:
            channel = chosen_channel(self.channel, file.channels, path)
        seconds = duration(AudioSource(path, channel=channel))
        self.attached.append({"type": "audio", "audio": Path(path)})
        tell(f"({name}, {seconds:.1f} s: type what to do with it, or press Enter)")

    def attach_recording(self, seconds: float | None) -> None:
        """Record from the microphone, until Enter where `seconds` is None. Raises AudioError."""
        part = recorded(seconds).part
        self.attached.append(part)
        rate, samples = part["audio"]
        tell(f"({len(samples) / rate:.1f} s: type what to do with it, or press Enter)")

    def send(self, message: dict) -> None:
        """Send a message and print the reply. A turn that is cancelled or fails leaves no trace."""
        self.attached = []
        messages = [*self.messages, message]
        try:
            stream = self.model.stream(messages, channel=self.channel, past=self.past, **self.options)
            reply = say_stream(stream)
        except BaseException:
            self.past = Past()  # a generation that was cut may have left it anywhere
            raise
        self.messages = [*messages, {"role": "assistant", "content": reply.text}]


def _ask(prompt: str) -> str:
    """A line from the input; the prompt appears on a terminal only, and never in what is piped from stdout."""
    if not sys.stdin.isatty():
        return input()
    if sys.stdout.isatty():
        _complete_files()
        return input(prompt)
    tell(prompt, end="")
    return input()


def _complete_files() -> None:
    """Lines can be edited, and Tab completes the names of files."""
    try:
        import readline
    except ImportError:  # not in every Python
        return

    def complete(start: str, number: int) -> str | None:
        names = sorted(glob.glob(f"{glob.escape(start)}*"))
        return names[number] if number < len(names) else None

    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")


def _file_names(text: str) -> list[str]:
    """As a shell would read them: with quotes around blanks, or a backslash before each. Raises ConfigError."""
    try:
        names = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"/audio {text}: {error}; write quotes in pairs") from None
    if not names:
        raise ConfigError("/audio: name a recording: /audio FILE")
    return names


def _seconds(text: str) -> float | None:
    """Of /mic. Raises ConfigError."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        raise ConfigError(f"/mic {text}: is no number of seconds") from None
