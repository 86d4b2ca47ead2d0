"""Who speaks: espeak-ng voices for training, held-out ones, and two known hard ones.

A voice is an accent (`lang/` in espeak-ng's data) with a variant (`voices/!v/`). Names are checked against these
folders because espeak-ng quietly speaks with its default voice when a variant does not exist.
"""

from dataclasses import dataclass
from pathlib import Path

from blspkd.errors import ConfigError

ACCENTS = {"us": "en-us", "nyc": "en-us-nyc", "gb": "en-gb-x-rp", "scot": "en-gb-scotland", "carib": "en-029"}

TRAINING = [
    "us:m1", "us:m2", "nyc:m3", "us:m4", "gb:m5", "us:m6", "scot:m7", "us:m8", "us:f1", "gb:f2", "us:f3", "carib:f4",
    "us:f5", "us:Alex", "gb:Andrea", "us:Andy", "us:Denis", "nyc:Diogo", "us:Gene", "us:Henrique", "scot:Hugo",
    "us:Jacky", "us:Lee", "us:Mario", "gb:Mike", "us:Reed", "us:RicishayMax", "us:Storm", "us:adam", "nyc:anika",
    "us:announcer", "us:antonio", "gb:aunty", "us:belinda", "us:boris", "us:caleb", "us:david", "scot:ed", "us:edward",
    "us:grandma", "us:grandpa", "us:gustave", "carib:iven", "us:john", "us:linda", "us:marcelo", "gb:max", "us:norbert",
    "us:pablo"]

HELD_OUT = [
    "us:Annie", "us:Michael", "gb:benjamin", "us:steph", "nyc:quincy", "us:robert", "scot:victor", "us:shelby"]

HARD = ["us:Alicia", "us:Marco"]  # slow; a recogniser trained on the voices above errs on every second word of these

GROUPS = {"training": TRAINING, "held_out": HELD_OUT, "hard": HARD}


@dataclass(frozen=True)
class Voice:
    """`us:Andy`: speaker id `us_Andy`, espeak-ng voice `en-us+Andy`."""

    name: str

    @property
    def speaker(self) -> str:
        return self.name.replace(":", "_")

    @property
    def espeak_name(self) -> str:
        accent, variant = self.name.split(":")
        return f"{ACCENTS[accent]}+{variant}"


def voices_of(group: str, data_path: Path) -> list[Voice]:
    """The voices of a group, all of them known to exist in espeak-ng's data folder;
    ConfigError names one that does not.
    """
    if group not in GROUPS:
        raise ConfigError(f"voices: there is no group '{group}'; known: {', '.join(GROUPS)}")
    variants = {path.name for path in (data_path / "voices/!v").iterdir()}
    accents = {path.name.lower() for path in (data_path / "lang").rglob("*") if path.is_file()}
    for name in GROUPS[group]:
        accent, variant = name.split(":")
        if variant not in variants:
            raise ConfigError(f"voice {name}: espeak-ng has no variant '{variant}' in {data_path}/voices/!v")
        if ACCENTS.get(accent, "") not in accents:
            raise ConfigError(f"voice {name}: espeak-ng has no accent '{accent}' in {data_path}/lang")
    return [Voice(name) for name in GROUPS[group]]
