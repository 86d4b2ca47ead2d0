"""constraints.txt: the versions that were tested, so that a new release of a dependency breaks no newcomer.

    python tools/constraints.py compare                     # what this environment has in other versions
    python tools/constraints.py write PYTHON [PYTHON ...]   # constraints.txt anew, from one environment per Python

`write` takes the interpreters of environments whose tests have passed. torch is left out: TORCH_VERSION decides it.
"""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent / "constraints.txt"
NOT_OURS = {"blspkd", "torch", "triton", "pip", "setuptools", "wheel"}  # and NVIDIA's libraries, which torch chooses
HEADER = """\
# The versions that were tested; `make -C tools` installs them (CONSTRAINTS= takes the newest ones instead).
# Written by `python tools/constraints.py write`; not to be edited by hand. torch: see TORCH_VERSION in the Makefile.
"""


def main(words: list[str]) -> int:
    if words[:1] == ["compare"] and len(words) == 1:
        print(compare(CONSTRAINTS.read_text(encoding="utf-8")))
    elif words[:1] == ["write"] and len(words) > 1:
        installed = dict(sorted(map(versions_in, words[1:])))
        CONSTRAINTS.write_text(HEADER + "\n".join(lines(installed)) + "\n", encoding="utf-8")
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


def compare(constraints: str) -> str:
    """A table of what this environment has in another version than `constraints` asks for."""
    from packaging.requirements import Requirement

    rows = []
    for line in constraints.splitlines():
        if not line or line.startswith("#"):
            continue
        wanted = Requirement(line)
        try:
            have = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if (wanted.marker is None or wanted.marker.evaluate()) and have not in wanted.specifier:
            rows.append(f"{wanted.name:<28}{str(wanted.specifier)[2:]:<16}{have}")
    if not rows:
        return "every package has the version that was tested"
    return "\n".join([f"{'package':<28}{'tested':<16}here", *rows])


def versions_in(python: str) -> tuple[tuple[int, int], dict[str, str]]:
    """Python's version in an environment, and those of the packages there."""
    code = ("import importlib.metadata as m, json, sys; print(json.dumps([sys.version_info[:2], "
            "{d.metadata['Name']: d.version for d in m.distributions()}]))")
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    version, packages = json.loads(done.stdout)
    return tuple(version), packages


def lines(installed: dict[tuple[int, int], dict[str, str]]) -> list[str]:
    """Requirements by name; one that differs between Pythons (oldest first) has a line for each of its versions."""
    found: dict[str, list[tuple[tuple[int, int], str]]] = {}  # name -> where another version begins
    for python, packages in installed.items():
        for name, version in packages.items():
            begins = found.setdefault(name.lower().replace("_", "-"), [])
            if not begins or begins[-1][1] != version:
                begins.append((python, version))
    written = []
    for name, begins in sorted(found.items()):
        if name in NOT_OURS or name.startswith(("nvidia-", "cuda-")):
            continue
        for i, (python, version) in enumerate(begins):
            bounds = [f'python_version >= "{python[0]}.{python[1]}"'] * (i > 0)
            if i + 1 < len(begins):
                bounds.append('python_version < "{}.{}"'.format(*begins[i + 1][0]))
            written.append(f"{name}=={version}" + f" ; {' and '.join(bounds)}" * bool(bounds))
    return written


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
