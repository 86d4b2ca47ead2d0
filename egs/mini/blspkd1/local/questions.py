"""Questions about a sentence; the answer is a span of its text."""

from dataclasses import dataclass

from grammar import Sentence

KINDS = ("who", "what", "where", "when", "how many")


@dataclass(frozen=True)
class Question:
    kind: str
    text: str
    answer: str


def questions(sentence: Sentence) -> list[Question]:
    """All questions that the sentence answers: for each kind one that names other words of it and one that does not."""
    who = sentence.person.english if sentence.person.is_name else f"the {sentence.person.english}"
    noun = sentence.thing.plural if sentence.several else sentence.thing.english
    do = sentence.verb.infinitive
    found = [
        Question("who", f"Who {sentence.verb.english} the {noun}?", sentence.subject),
        Question("who", "Who was it?", sentence.subject),
        Question("what", f"What did {who} {do}?", sentence.object),
        Question("what", f"What did {sentence.person.she_or_he} {do}?", sentence.object),
    ]
    if sentence.place:
        found.append(Question("where", f"Where did {who} {do} the {noun}?", sentence.place.english))
        found.append(Question("where", "Where was that?", sentence.place.english))
    if sentence.time:
        found.append(Question("when", f"When did {who} {do} the {noun}?", sentence.time.english))
        found.append(Question("when", "When was that?", sentence.time.english))
    if sentence.several:
        found.append(Question("how many", f"How many {noun} did {who} {do}?", sentence.determiner))
        found.append(Question("how many", "How many were there?", sentence.determiner))
    return found
