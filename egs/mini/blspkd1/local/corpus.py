"""Write the text of the mini recipe: examples for the LLM (and its tokenizer), and the sentences to be spoken.

    python local/corpus.py --output_dir data/local [--num_lm 120000] [--num_train 16000] [--num_test 300] [--seed 0]

writes
    lm/train.jsonl, lm/dev.jsonl    rows {"task", "instruction", "input", "output"}, to train and check the LLM
    spoken/<set>.jsonl              rows {"text"}: what is to be said; for validation and test sets with the references
                                    by task ("translate", "qa", "initials") and the question as "instruction"
All training text comes from sentences of the train split, so no dev or test sentence occurs in it.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from continuations import continue_sentence
from german import translate
from grammar import Grammar, Sentence
from questions import KINDS, Question, questions

from blspkd.errors import command
from blspkd.files import write_rows

INSTRUCTIONS = {"continue": "Continue the following text.", "repeat": "Repeat the following text.",
                "translate": "Translate the following text into German.",
                "initials": "Write every word and its first letter."}  # that of "qa" is the question
TASK_SHARES = {"continue": 0.20, "repeat": 0.10, "translate": 0.40, "qa": 0.20, "initials": 0.10}
NUM_LM_DEV = 2000
SPOKEN_SPLITS = {"train": "train", "valid": "dev", "test": "test"}


def lm_rows(grammar: Grammar, split: str, count: int, rng: random.Random) -> Iterator[dict]:
    """Instruction examples, each about a fresh sentence of `split`."""
    for _ in range(count):
        sentence = grammar.draw(split)
        task = rng.choices(list(TASK_SHARES), list(TASK_SHARES.values()))[0]
        instruction = INSTRUCTIONS.get(task, "")
        if task == "continue":
            output = continue_sentence(sentence, rng)
        elif task == "repeat":
            output = sentence.text
        elif task == "translate":
            output = translate(sentence)
        elif task == "initials":
            output = initials(sentence.text)
        else:
            question = choose_question(sentence, rng)
            instruction, output = question.text, question.answer
        yield {"task": task, "instruction": instruction, "input": sentence.text, "output": output}


def initials(text: str) -> str:
    """`the old man sold a bag` -> `the t old o man m sold s a a bag b`.

    With the letters alone a small LLM loses its place: many words of a sentence share one.
    """
    return " ".join(f"{word} {word[0]}" for word in text.split())


def choose_question(sentence: Sentence, rng: random.Random) -> Question:
    """One question, each kind that the sentence answers being equally likely."""
    found = questions(sentence)
    kinds = [kind for kind in KINDS if any(question.kind == kind for question in found)]
    kind = rng.choice(kinds)
    return rng.choice([question for question in found if question.kind == kind])


def spoken_rows(grammar: Grammar, split: str, count: int, rng: random.Random) -> Iterator[dict]:
    """`count` different sentences of `split`; those of dev and test with their references, by which one can choose.

    rng: of the questions alone; the grammar draws the sentences, so that these do not depend on who has questions.
    """
    seen: set[str] = set()
    while len(seen) < count:
        sentence = grammar.draw(split)
        if sentence.text in seen:
            continue
        seen.add(sentence.text)
        row = {"text": sentence.text}
        if split != "train":
            question = choose_question(sentence, rng)
            row |= {"translate": translate(sentence), "qa": question.answer, "initials": initials(sentence.text),
                    "instruction": question.text}
        yield row


def write_corpus(output_dir: Path, num_lm: int, num_spoken: dict[str, int], seed: int) -> None:
    """Write all files; `num_spoken` counts the sentences of "train", "valid" and "test"."""
    for name, split, count in (("train", "train", num_lm), ("dev", "dev", min(num_lm, NUM_LM_DEV))):
        stream = f"lm {name} {seed}"
        write_rows(output_dir / f"lm/{name}.jsonl", lm_rows(Grammar(stream), split, count, random.Random(stream)))
    for name, count in num_spoken.items():
        stream = f"spoken {name} {seed}"
        rows = spoken_rows(Grammar(stream), SPOKEN_SPLITS[name], count, random.Random(stream))
        write_rows(output_dir / f"spoken/{name}.jsonl", rows)


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_lm", type=int, default=120000, help="examples to train the LLM on")
    parser.add_argument("--num_train", type=int, default=16000, help="training sentences to be spoken")
    parser.add_argument("--num_valid", type=int, default=300)
    parser.add_argument("--num_test", type=int, default=300, help="test sentences, the same for all test sets")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    spoken = {"train": args.num_train, "valid": args.num_valid, "test": args.num_test}
    write_corpus(args.output_dir, args.num_lm, spoken, args.seed)


if __name__ == "__main__":
    main()
