"""The command line of run.py and slurm.py, taken apart: [options] [JOB=first:last] LOG COMMAND [ARGUMENT ...]."""

import collections
import os
import re
import sys
from dataclasses import dataclass, field


@dataclass
class Request:
    """Jobs that differ in a number only."""

    options: dict = field(default_factory=dict)
    name: str = ""  # "JOB"; empty: a single job without a number
    first: int = 1
    last: int = 1
    log: str = ""
    command: list = field(default_factory=list)

    @property
    def numbers(self) -> range:
        return range(self.first, self.last + 1)

    @property
    def logs(self) -> str:
        """The log, or a pattern of all logs."""
        return self.fill(self.log, "*" if len(self.numbers) > 1 else self.first)

    def fill(self, text: str, number: object) -> str:
        """`text` with a job's number in the place of the name."""
        return str(number).join(self.split(text))

    def split(self, text: str) -> list:
        """What stands around the name, where it stands as a word."""
        return re.split(rf"\b{self.name}\b", text) if self.name else [text]

    def words(self, number: int) -> list:
        """The command of one job."""
        return [self.fill(word, number) for word in self.command]


def parse(arguments: list) -> Request:
    """Ends the program with a message if something is wrong."""
    request = Request()
    words = collections.deque(arguments)
    while words:
        word = words[0]
        numbers = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?::(\d+))?", word)
        if numbers:
            request.name, request.first, request.last = numbers[1], int(numbers[2]), int(numbers[3] or numbers[2])
            words.popleft()
        elif word.startswith("-"):
            words.popleft()
            key, given, value = word.lstrip("-").replace("-", "_").partition("=")
            if given:
                value = word.partition("=")[2]
            elif word != "-V":
                value = words.popleft() if words else fail(f"{word} needs a value")
            request.options[key] = value
        else:
            break
    if len(words) < 2:
        fail(f"usage: {program()} [options] [JOB=first:last] LOG COMMAND [ARGUMENT ...]")
    request.log, *request.command = words
    if request.last < request.first:
        fail(f"{request.name}={request.first}:{request.last}: the last job comes before the first")
    if request.last > request.first and request.fill(request.log, "") == request.log:
        fail(f"{request.log}: several jobs cannot share one log; put {request.name} into its name")
    return request


def count(options: dict, key: str, default: int, smallest: int) -> int:
    """A whole-number option."""
    value = str(options.get(key, default))
    if not value.isdigit() or int(value) < smallest:
        fail(f"--{key} {value}: not a whole number from {smallest} up")
    return int(value)


def program() -> str:
    """The name in messages: run.py or slurm.py."""
    return os.path.basename(sys.argv[0])


def fail(message: str):
    print(f"{program()}: {message}", file=sys.stderr)
    sys.exit(1)
