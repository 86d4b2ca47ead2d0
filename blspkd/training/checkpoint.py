"""Which checkpoint a run goes on from."""

import json
import re
from pathlib import Path


def complete_checkpoints(folder: str | Path) -> list[Path]:
    """`checkpoint-<step>` folders whose writing was finished, oldest first.

    The Trainer writes trainer_state.json last: without it, or with half of it, the run was killed in between.
    """
    found = []
    for path in Path(folder).glob("checkpoint-*"):
        step = re.fullmatch(r"checkpoint-(\d+)", path.name)
        try:
            if step and json.loads((path / "trainer_state.json").read_text())["global_step"] == int(step[1]):
                found.append((int(step[1]), path))
        except (OSError, ValueError, KeyError):
            continue
    return [path for _, path in sorted(found)]

