"""Work on Kaldi data directories: check, fix, cut, join, pack. Flags mean what they do in Kaldi's utils/*.sh."""

import argparse
import logging
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import get_args

from blspkd.data.operations.filter import REPORT
from blspkd.data.operations.filter_pieces import filter_in_pieces
from blspkd.data.operations.limits import Limits
from blspkd.errors import ConfigError, DataError, command
from blspkd.evaluation import continuation_scores
from blspkd.kaldi import check, fix, recordings, select, verbs
from blspkd.kaldi.check_pieces import validate_in_pieces
from blspkd.kaldi.data_dir import parse_channel
from blspkd.kaldi.duration_pieces import write_durations_in_pieces
from blspkd.kaldi.pieces import SIZE, Share
from blspkd.kaldi.stats import stats as stats_of


@command
def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    args.run(args)


def validate(args: argparse.Namespace) -> None:
    problems = validate_in_pieces(args.dir, _share(args), need_text=not args.no_text, need_audio=not args.no_wav,
                                  check_files=args.check_files)
    if problems:
        raise DataError(check.report(args.dir, problems))
    if problems is not None:
        print(f"{args.dir}: in order")


def fix_(args: argparse.Namespace) -> None:
    remove = select.read_ids(args.remove) if args.remove else ()
    done = fix.fix(args.dir, check_files=args.check_files, remove=remove)
    print("\n".join([f"{args.dir}: fixed", *(f"  {line}" for line in done)]) if done else
          f"{args.dir}: nothing to fix")


def subset(args: argparse.Namespace) -> None:
    if args.spk_list or args.utt_list:
        if len(args.places) != 2:
            raise DataError("usage: subset (--spk-list | --utt-list) FILE SRC_DIR DEST_DIR")
        source, destination = args.places
        chosen = (select.of_speakers(source, args.spk_list) if args.spk_list
                  else select.of_list(source, args.utt_list))
    else:
        if len(args.places) != 3 or not args.places[1].isdecimal():
            raise DataError("usage: subset [--first | --last | --shortest | --per-spk | --speakers] SRC_DIR NUMBER "
                            "DEST_DIR")
        source, number, destination = args.places
        chosen = (args.choose or select.spread)(source, int(number))
    print(f"{destination}: {verbs.subset(source, destination, chosen)} utterances")


def copy(args: argparse.Namespace) -> None:
    number = verbs.copy(args.src_dir, args.dest_dir, lambda old: f"{args.utt_prefix}{old}{args.utt_suffix}",
                              lambda old: f"{args.spk_prefix}{old}{args.spk_suffix}")
    print(f"{args.dest_dir}: {number} utterances")


def split(args: argparse.Namespace) -> None:
    for part in verbs.split(args.dir, args.number, per_utt=args.per_utt):
        print(part)


def combine(args: argparse.Namespace) -> None:
    for note in verbs.combine(args.dest, args.sources):
        print(note)
    print(f"{args.dest}: made from {', '.join(args.sources)}")


def stats(args: argparse.Namespace) -> None:
    figures = stats_of(args.dir, _share(args))
    if figures is not None:
        print(figures)


def durations(args: argparse.Namespace) -> None:
    written = write_durations_in_pieces(args.dir, _share(args), args.nj)
    if written is not None:
        print(f"{args.dir}/utt2dur: {'written' if written else 'is up to date'}")


def filter_(args: argparse.Namespace) -> None:
    limits = Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)})
    result = filter_in_pieces(args.src_dir, args.dest_dir, limits, _share(args), test_dirs=args.test_dirs, llm=args.llm,
                              report=args.report, num_jobs=args.nj)
    if result is not None:
        print(f"{args.dest_dir}: {result}\n  all of them: {args.report or f'{args.dest_dir}/{REPORT}'}")


def score(args: argparse.Namespace) -> None:
    scores = continuation_scores.write_scores(args.dir, args.rules.split(), args.table)
    print(f"{args.dir}/{args.table}: {scores}")


def choose_channel(args: argparse.Namespace) -> None:
    recordings.choose_channel(args.dir, args.channel)
    print(f"{args.dir}/reco2channel: channel {args.channel} of every recording")


def materialize(args: argparse.Namespace) -> None:
    count = recordings.materialize(args.dir, args.dump_dir, allow_pipes=args.allow_pipes, num_jobs=args.nj)
    print(f"{args.dir}/wav.scp: {count} commands made into files")


def pack(args: argparse.Namespace) -> None:
    # Imported here, so that the other verbs answer at once: these take seconds.
    from blspkd.data.packed.pack import Packing
    from blspkd.data.prompts import Prompt, load_tokenizer
    from blspkd.training.run import check_continuations, prompt_of

    _check_job(args)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source, packed = Path(args.dir), Path(args.packed_dir)
    prompt = Prompt(load_tokenizer(args.llm), prompt_of(source, args.llm, needed=(source / "continuation").exists()))
    packing = Packing(source, packed, prompt, args.llm, args.shard_mb * 1_000_000)
    if packing.continuations:
        check_continuations(source, packing.data.utterances, packing.continuations)
    print(packing.run(args.job, args.num_jobs))


def _check_job(args: argparse.Namespace) -> None:
    if args.job is not None and args.job > args.num_jobs:
        raise ConfigError(f"--job {args.job} --num_jobs {args.num_jobs}: jobs are numbered from 1 to num_jobs")


def _share(args: argparse.Namespace) -> Share:
    _check_job(args)
    return Share(args.job, args.num_jobs, args.piece_size)


def _true_or_false(value: str) -> bool:
    if value not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, found {value!r}")
    return value == "true"


def _positive(value: str) -> int:
    if not value.isdecimal() or not int(value):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {value!r}")
    return int(value)


def _kind(field: Field) -> dict:
    """What argparse has to know of a field of `Limits`: `float`, `float | None`, `list` ..."""
    if field.type is list:
        return {"nargs": "+", "default": [], "metavar": "NAME"}
    kind = next(kind for kind in (*get_args(field.type), field.type) if kind is not type(None))
    return {"type": kind, "default": field.default, "metavar": "TEXT" if kind is str else "N"}


def _default(value: object) -> str:
    return "" if value in (None, "", MISSING) else f" (default: {value:g})"


def _channel(value: str) -> int:
    try:
        return parse_channel(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m blspkd.bin.data_dir", description=__doc__, allow_abbrev=False)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(function, text: str, *places: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(function.__name__.rstrip("_"), help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=function)
        for place in places:
            added.add_argument(place.lower(), metavar=place)
        return added

    def option(to: argparse.ArgumentParser, name: str, **settings) -> None:
        to.add_argument(*dict.fromkeys((name, name.replace("_", "-"), "--" + name[2:].replace("-", "_"))), **settings)

    checking = verb(validate, "report everything that is wrong with a data directory; status 1 if anything is", "DIR")
    option(checking, "--no-text", action="store_true", help="it may lack text")
    option(checking, "--no-wav", action="store_true", help="it may lack wav.scp")
    for name in ("--no-feats", "--no-spk-sort", "--non-print"):
        option(checking, name, action="store_true", help="Kaldi's option; always so here")
    fixing = verb(fix_, "remove what cannot be used, sort the rest, keep a backup in DIR/.backup", "DIR")
    option(fixing, "--remove", metavar="FILE", help="also remove the utterances that FILE lists")
    for one in (checking, fixing):
        option(one, "--check_files", type=_true_or_false, default=True, metavar="true|false",
               help="look whether the audio files are there (default: true)")
    choosing = verb(subset, "write some utterances to a new directory; spread evenly if no option says which")
    which = choosing.add_mutually_exclusive_group()
    for name, function, text in (
            ("--first", select.first, "the first NUMBER"), ("--last", select.last, "the last NUMBER"),
            ("--shortest", select.shortest, "the NUMBER shortest by utt2dur"),
            ("--per-spk", select.per_speaker, "NUMBER of each speaker"),
            ("--speakers", select.speakers, "random speakers that have NUMBER utterances together")):
        option(which, name, dest="choose", action="store_const", const=function, help=text)
    option(which, "--spk-list", metavar="FILE", help="the speakers that FILE lists (no NUMBER)")
    option(which, "--utt-list", metavar="FILE", help="the utterances that FILE lists (no NUMBER)")
    choosing.add_argument("places", nargs="+", metavar="SRC_DIR [NUMBER] DEST_DIR")
    copying = verb(copy, "write a copy, with other names for utterances and speakers", "SRC_DIR", "DEST_DIR")
    for name in ("--utt-prefix", "--utt-suffix", "--spk-prefix", "--spk-suffix"):
        option(copying, name, default="", metavar="TEXT", help="added to every name")
    splitting = verb(split, "cut into DIR/splitNUMBER/1 ...; speakers stay together", "DIR")
    splitting.add_argument("number", metavar="NUMBER", type=_positive)
    option(splitting, "--per-utt", action="store_true", help="speakers need not stay together: DIR/splitNUMBERutt")
    joining = verb(combine, "join directories of different utterances", "DEST")
    joining.add_argument("sources", nargs="+", metavar="SRC_DIR")
    option(joining, "--extra-files", metavar="FILES", help="Kaldi's option; here every file is joined")
    option(joining, "--skip-fix", metavar="true|false", help="Kaldi's option; here nothing needs to be fixed")
    describing = verb(stats, "print figures", "DIR")
    measuring = verb(durations, "open every recording and write utt2dur; lists the audio that cannot be used", "DIR")
    verb(choose_channel, "use one channel of every recording: writes reco2channel", "DIR").add_argument(
        "channel", metavar="CHANNEL", type=_channel, help="counted from 0")
    leaving_out = verb(filter_, "write what is of use for training to a new directory, and report the rest", "SRC_DIR",
                       "DEST_DIR")
    for field in fields(Limits):
        option(leaving_out, f"--{field.name}", help=field.metadata["help"] + _default(field.default), **_kind(field))
    option(leaving_out, "--test_dirs", nargs="+", default=[], metavar="DIR",
           help="data directories whose sentences must not be trained on")
    option(leaving_out, "--llm", default="", metavar="LLM", help="Hugging Face id or folder: its tokens are counted")
    option(leaving_out, "--report", metavar="FILE", help="default: DEST_DIR/filter.json")
    scoring = verb(score, "score every continuation from 0 (bad) to 1 by rules, for the data operation `prefer`", "DIR")
    option(scoring, "--rules", default=" ".join(continuation_scores.USUAL), metavar="RULES",
           help=f"some of {', '.join(continuation_scores.RULES)} (default: %(default)s)")
    option(scoring, "--table", default="utt2score", metavar="FILE", help="file to write in DIR (default: utt2score)")
    running = verb(materialize, "run the commands in wav.scp into DUMP_DIR, and let wav.scp name the files", "DIR",
                   "DUMP_DIR")
    option(running, "--allow_pipes", type=_true_or_false, default=False, metavar="true|false",
           help="consent to run them (default: false)")
    packing = verb(pack, "write utterances, continuations and their LLM token ids to a few large Arrow files, which "
                         "training reads in the place of DIR; what is there already is skipped", "DIR", "PACKED_DIR")
    option(packing, "--llm", required=True, metavar="LLM", help="Hugging Face id or folder whose tokenizer is used")
    option(packing, "--job", type=_positive, default=1, metavar="N", help="this job's number, from 1 (default: 1)")
    option(packing, "--num_jobs", type=_positive, default=1, metavar="N", help="jobs that share the work (default: 1)")
    option(packing, "--shard_mb", type=_positive, default=800, metavar="MB",
           help="megabytes of audio in a file, about (default: 800)")
    for one in (checking, measuring, leaving_out, describing):
        option(one, "--job", type=_positive, metavar="N", help="be one of several processes that share the pieces of a "
               "large directory; a call without it, afterwards, puts the results together")
        option(one, "--num_jobs", type=_positive, default=1, metavar="N", help="how many these are")
        option(one, "--piece_size", type=_positive, default=SIZE, metavar="N",
               help=f"utterances of a piece (default: {SIZE})")
    for one in (measuring, leaving_out, running):
        option(one, "--nj", type=_positive, default=1, metavar="N", help="parallel jobs (default: 1)")
    return parser


if __name__ == "__main__":
    main()
