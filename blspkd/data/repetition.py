"""Is a text stuck in a loop? For the filter of continuations and for the scoring of answers."""

from collections.abc import Sequence


def is_looping(items: Sequence, max_period: int, repeats: int, min_length: int = 0) -> bool:
    """Whether a stretch of `min_length` items or more is one phrase said `repeats` times or more in a row.

    items: tokens or words; max_period: of these, the longest phrase that is looked for.
    """
    for period in range(1, min(max_period, len(items) // repeats) + 1):
        needed = max(min_length, repeats * period) - period
        same = 0  # items in a row that equal the one a period before
        for earlier, later in zip(items, items[period:]):  # noqa: B905 (the second is shorter)
            same = same + 1 if earlier == later else 0
            if same >= needed:
                return True
    return False
