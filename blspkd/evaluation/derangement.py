"""The chance system's pairing: every utterance is answered from the speech of another one that says something else."""

import random
from collections.abc import Mapping

from blspkd.errors import DataError
from blspkd.evaluation.scorers.texts import normalize


def derange(transcripts: Mapping[str, str], seed: int) -> dict[str, str]:
    """utt_id -> the utterance whose speech stands in for it; never one with the same (normalised) transcript.

    A permutation, drawn by `seed`, wherever one exists; if more than half of the set says the same thing, the others'
    speech is used several times. Raises DataError for fewer than two different transcripts.
    """
    groups: dict[str, list[str]] = {}
    for utt_id in sorted(transcripts, key=str.encode):
        groups.setdefault(normalize(transcripts[utt_id]), []).append(utt_id)
    if len(groups) < 2:
        raise DataError(f"the chance system needs two different transcripts, this set has {len(groups)} "
                        f"in {len(transcripts)} utterance(s); leave it out: --systems '[text, speech]'")
    draw = random.Random(seed)
    members = list(groups.values())
    draw.shuffle(members)
    for group in members:
        draw.shuffle(group)
    order = [utt_id for group in members for utt_id in group]
    # Equal transcripts stand side by side, so a step as long as the largest group leaves every group ...
    step = max(map(len, members))
    if 2 * step <= len(order):
        return {utt_id: order[(place + step) % len(order)] for place, utt_id in enumerate(order)}
    # ... unless that group holds more than half of the set: then no permutation can.
    return {utt_id: draw.choice([other for other in order if other not in group])
            for group in (set(group) for group in members) for utt_id in sorted(group, key=str.encode)}
