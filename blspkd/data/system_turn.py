"""The system message that a chat template writes where none is given, cut out of what it renders (`system: none`).

SmolLM2's and Qwen2.5's templates, for example, introduce the assistant by name. Where such a turn begins and ends is
told by comparing renderings: with a system message that is known, and with one turn behind it.
"""

import os
from collections.abc import Callable

from blspkd.errors import ModelError

NONE = "none"  # in PromptConfig.system


def without_default(rendered: str, turns: list[dict], render: Callable[[list[dict]], str], marks: tuple[str, str],
                    bos: str) -> str:
    """`rendered`, what `render(turns)` gives, without the template's own system turn; as it is where there is none.

    marks: two texts that occur in no turn; bos: the token that all begins with, or "". Raises ModelError where the
    turn's bounds cannot be told.
    """
    message, content = marks
    try:
        head, found, tail = render([{"role": "system", "content": message}, *turns]).partition(message)
    except ModelError:  # it has no system messages at all
        return rendered
    if not found or len(rendered) < len(head + tail) or not (rendered.startswith(head) and rendered.endswith(tail)):
        return rendered
    probe = render([{"role": "system", "content": message}, {"role": "user", "content": content}])
    behind_system, _, behind_user = probe.partition(message)[2].partition(content)
    # Both begin with the end of a turn, and, if another turn follows, with the beginning of any turn.
    common, start = os.path.commonprefix([behind_system, behind_user]), head.removeprefix(bos)
    overlap = next((size for size in range(min(len(common), len(start)), 0, -1) if common.endswith(start[:size])), 0)
    end = common[:len(common) - overlap]
    if not end or not tail.startswith(end):
        raise ModelError("system: none: where the system message of this LLM's chat template ends cannot be told; give "
                         "a system message of your own")
    return bos * head.startswith(bos) + tail[len(end):]
