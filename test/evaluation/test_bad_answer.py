"""bad_answer: empty, looped, or of unknown words, where the answer to typed text is not."""

import pytest

from blspkd.evaluation.scorers import measure
from blspkd.evaluation.scorers.bad_answer import BadAnswer
from blspkd.evaluation_config import TaskConfig

TASK = TaskConfig(instruction="Continue the following text.")


def row(hypothesis, typed="then she went home", **more):
    return {"utt_id": "u", "hypothesis": hypothesis, "typed": typed, "transcript": "the nurse sold six bags",
            "instruction": TASK.instruction, "reference": "the nurse sold six bags"} | more


@pytest.mark.parametrize("answer, bad", [
    ("then she went home", False), ("the nurse went home", False), ("six nurses went home", False),
    ("", True), (" .", True), ("went home went home went home went home", True), ("home home home", False),
    ("die Schwester ging nach Hause", True), ("she went nach Hause", False), ("she ging nach Hause", True)])
def test_what_is_bad(answer, bad):
    assert BadAnswer().table([row(answer)], TASK).tolist() == [[bad, 1]]


def test_words_are_known_from_all_utterances_and_a_loop_in_the_typed_answer_is_allowed():
    rows = [row("die Schwester ging"), row("then", typed="die Schwester"), row("a a a a", typed="a a a a a")]
    assert BadAnswer().table(rows, TASK)[:, 0].tolist() == [0, 0, 0]


def test_an_utterance_without_an_answer_to_its_typed_text_is_not_judged():
    scored, = measure("bad_answer", [row("", typed=" "), row(""), row("home")], TASK, num_bootstrap=50)
    assert (scored.value, scored.n) == (50, 2)
    assert scored.signature.startswith("empty, looped, or more than 50 % unknown words; to typed text not")


def test_chance_is_what_was_answered_to_another_typed_transcript():
    """Not what a system answered to other speech: that would depend on how well it listens."""
    assert BadAnswer().table([row("", typed_of_heard="she went home")], TASK)[0, 0] == 0
