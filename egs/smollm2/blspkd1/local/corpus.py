"""Write the sentences of the SmolLM2 recipe that the synthesiser is to speak.

    python local/corpus.py --output_dir data/local/spoken [--num_train 40000] [--num_test 150] [--seed 0]

writes <set>.jsonl with rows {"text", "spoken"}; test.jsonl has sentences, facts.jsonl factual questions with
"answer". No sentence of valid, test or facts occurs in train.
"""

import argparse
import random
import re
from pathlib import Path

from facts import questions
from grammar import Grammar

from blspkd.errors import command
from blspkd.files import write_rows

LETTER = {"a": "eigh", "z": "zee"}  # else a is an article, and z British


def sentences(stream: str, count: int, taken: set[str]) -> list[str]:
    """`count` different sentences that are not in `taken`, which they join."""
    grammar, found = Grammar(stream), []
    while len(found) < count:
        text = grammar.draw()
        key = text.lower()
        if key not in taken:
            taken.add(key)
            found.append(text)
    return found


def row(text: str, **references: str) -> dict[str, str]:
    """A sentence, and how it is written for the synthesiser, word by word."""
    spelled = re.fullmatch(r"(?:[a-z] )+(?:[a-z]|[a-z]+)(?: [a-z]+)*", text) is not None
    spoken = " ".join(LETTER.get(word, word) if spelled else word for word in text.split())
    return {"text": text, "spoken": spoken, **references}


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_train", type=int, default=40000)
    parser.add_argument("--num_valid", type=int, default=300)
    parser.add_argument("--num_test", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    facts = questions()
    random.Random(f"facts {args.seed}").shuffle(facts)
    taken = {question.lower() for question, _ in facts}
    write_rows(args.output_dir / "facts.jsonl",
               (row(question, answer=answer) for question, answer in facts[:args.num_test]))
    for name, count in (("test", args.num_test), ("valid", args.num_valid), ("train", args.num_train)):
        write_rows(args.output_dir / f"{name}.jsonl", map(row, sentences(f"{name} {args.seed}", count, taken)))


if __name__ == "__main__":
    main()
