"""Write the text of the AN4 recipe: examples for the LLM, sentences for the synthesiser, references of two sets.

    python local/corpus.py --data_dir data --output_dir data/local [--num_lm 120000] [--num_spoken 6000] [--seed 0]

reads the transcripts of <data_dir>/{people,valid,test} and writes
    lm/train.jsonl, lm/dev.jsonl   rows {"task", "instruction", "input", "output"};
                                   dev: about the validation speakers' sentences
    spoken/synthetic.jsonl         rows {"text", "spoken"}: what is to be said, and how to write it for the synthesiser
    <data_dir>/{valid,test}/text.<task>   references by rule
No test sentence of more than one word occurs in the LLM's training rows, neither as input nor as output, or is spoken.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from continuations import continue_text
from grammar import Grammar
from tasks import INSTRUCTIONS, answer

from blspkd.errors import command
from blspkd.files import write_rows
from blspkd.kaldi.data_dir import KaldiDir, write_table

CONTINUE = "Continue the following text."
SHARES = {"continue": 0.22, "repeat": 0.12, "digits": 0.15, "backwards": 0.15, "letters": 0.12, "german": 0.16,
          "first": 0.04, "last": 0.04}
SPOKEN = {"a": "eigh", "z": "zee", "rubout": "rub-out"}  # else a is an article, z British, and rubout one word


def lm_rows(grammar: Grammar, count: int, forbidden: set[str], rng: random.Random) -> Iterator[dict]:
    """Examples about drawn sentences."""
    written = 0
    while written < count:
        row = lm_row(grammar.draw(), rng.choices(list(SHARES), list(SHARES.values()))[0], rng)
        if row["output"] not in forbidden:
            written += 1
            yield row


def lm_row(text: str, task: str, rng: random.Random) -> dict:
    if task == "continue":
        return {"task": task, "instruction": CONTINUE, "input": text, "output": continue_text(text, rng)}
    return {"task": task, "instruction": INSTRUCTIONS[task], "input": text, "output": answer(task, text)}


def spoken_row(text: str, rng: random.Random) -> dict:
    """With commas, at which the synthesiser pauses, between some of the words."""
    pause = rng.choice([0.0, 0.1, 0.3, 1.0])
    words = text.split()
    spoken = [SPOKEN.get(word, word) + ("," if rng.random() < pause else "") for word in words]
    return {"text": text, "spoken": " ".join(spoken).rstrip(",")}


def texts_of(data_dir: Path, name: str) -> dict[str, str]:
    return {utt_id: utterance.text for utt_id, utterance in KaldiDir.read(data_dir / name).utterances.items()}


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_lm", type=int, default=120000, help="examples to train the LLM on")
    parser.add_argument("--num_spoken", type=int, default=6000, help="sentences to be spoken by the synthesiser")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    valid, test = texts_of(args.data_dir, "valid"), texts_of(args.data_dir, "test")
    forbidden = {text for text in test.values() if len(text.split()) > 1}
    people = list(texts_of(args.data_dir, "people").values())

    stream = f"lm {args.seed}"
    write_rows(args.output_dir / "lm/train.jsonl",
               lm_rows(Grammar(people, forbidden, stream), args.num_lm, forbidden, random.Random(stream)))
    rng = random.Random(f"dev {args.seed}")
    write_rows(args.output_dir / "lm/dev.jsonl",
               [lm_row(text, task, rng) for text in valid.values() for task in SHARES])
    stream = f"spoken {args.seed}"
    grammar, rng = Grammar(people, forbidden, stream), random.Random(stream)
    write_rows(args.output_dir / "spoken/synthetic.jsonl",
               [spoken_row(grammar.draw(), rng) for _ in range(args.num_spoken)])
    for name, texts in ("valid", valid), ("test", test):
        for task in INSTRUCTIONS:
            if task != "repeat":
                write_table(args.data_dir / f"{name}/text.{task}",
                            {utt_id: answer(task, text) for utt_id, text in texts.items()})


if __name__ == "__main__":
    main()
