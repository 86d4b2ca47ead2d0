"""Use a trained model: talk to it, transcribe, serve it, look into it, share it. `blspkd COMMAND --help` says more.

MODEL is a folder that training left (exp/<tag>/model) or a repository of the Hugging Face hub. Answers go to stdout,
everything else to stderr. Exit status: 0, 1 for what a message explains, 2 for options that cannot be, 130 for Ctrl-C.
"""

import argparse
import logging
import os
import sys
import warnings
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from blspkd import __version__
from blspkd.errors import ConfigError, ModelError, command
from blspkd.files import make_folder
from blspkd.serve.option_types import chunk_seconds, count, index, positive, share, temperature
from blspkd.serve.settings import Settings

if TYPE_CHECKING:
    from blspkd.models.chat import SpeechLLM

SERVER_OPTIONS = {  # fields of Settings
    "host": "address to listen on; another than this machine's own needs a key",
    "port": "0: any that is free",
    "allowed_hosts": "a further name under which the server is reached, e.g. behind a proxy; may be given again",
    "model_name": "what clients call the model",
    "max_batch": "requests that are answered together",
    "max_queue": "requests that may wait; more are told to come back",
    "max_queue_seconds": "of audio in the requests that wait",
    "max_seconds": "of audio in one request",
    "max_body_bytes": "of one request",
    "max_characters": "of text in one request",
    "timeout_seconds": "for one request, its reply included",
    "default_new_tokens": "length of a reply whose request names none",
    "max_new_tokens": "longest reply that a request can ask for",
    "engine": "what generates: transformers, or vllm for models without PLoRA",
    "vllm_python": "engine vllm: the Python interpreter of an environment that has vLLM",
}


@command
def main(words: list[str] | None = None) -> None:
    args = _parse(words)
    if sys.stdout is None:
        raise ConfigError("standard output is closed; what nobody should read can go to /dev/null")
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115  (it was closed)
    warnings.simplefilter("ignore", FutureWarning)  # what packages will do one day is nothing that a user can mend
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # `blspkd chat ... | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def chat(args: argparse.Namespace) -> None:
    from blspkd.serve.inputs import Input, as_input, check_names, recorded

    check_names(args.files, None)
    inputs = [as_input(name) for name in args.files]
    inputs += [Input(text, {"type": "text", "text": text}) for text in args.text]
    if not inputs and args.mic is None and not args.interactive and not sys.stdin.isatty():
        raise ConfigError("chat: name a recording, - to read one from standard input, or --text TEXT; without any of "
                          "them, standard input has to be a terminal")
    if args.chunk is not None and args.system:
        raise ConfigError("chat: --chunk and --system exclude each other")
    if args.mic is not None:
        inputs.append(recorded(args.mic or None))
    model = _load(args)
    options = {name: getattr(args, name) for name in ("max_new_tokens", "temperature", "top_p", "seed")}
    if args.interactive or not inputs:
        from blspkd.serve.terminal import TerminalChat

        talk = TerminalChat(model, args.instruction, args.system, args.channel, **options)
        talk.attached = [item.part for item in inputs]
        talk.run()
        return
    from blspkd.serve.replies import reply_to_each

    reply_to_each(model, inputs, args.instruction, args.system, args.channel, args.chunk, **options)


def transcribe(args: argparse.Namespace) -> None:
    from blspkd.serve.inputs import check_names

    check_names(args.files, args.output)
    if args.output is not None:
        make_folder(args.output)
    model = _load(args)
    from blspkd.serve.transcripts import transcribe_files

    instruction = {"instruction": args.instruction} if args.instruction else {}
    transcribe_files(model, args.files, args.output, args.json, channel=args.channel, chunk=args.chunk,
                     max_new_tokens=args.max_new_tokens, **instruction)


def serve(args: argparse.Namespace) -> None:
    given = {name: getattr(args, name) for name in SERVER_OPTIONS if getattr(args, name) is not None}
    if args.api_key_file:
        given["api_key"] = _key_in(args.api_key_file)
    if args.allowed_hosts:
        given["allowed_hosts"] = tuple(args.allowed_hosts)
    settings = Settings(**given)
    load = _load
    if settings.engine == "vllm":
        from blspkd.serve.vllm_check import check

        check(args.model, args.revision, settings.vllm_python)
        load = partial(_load, python=settings.vllm_python)
    try:
        from blspkd.serve import server
    except ModuleNotFoundError as error:
        raise ConfigError(f"serve: package {error.name} is not installed: pip install 'blspkd[serve]'") from None
    from blspkd.serve.browser import open_page

    server.serve(partial(load, args), settings, *([open_page] if args.open else []))


def info(args: argparse.Namespace) -> None:
    import json

    from blspkd.models.description import as_text, describe

    description = describe(args.model, args.revision)
    print(json.dumps(description, indent=2, ensure_ascii=False) if args.json else as_text(description))
    if description["problems"]:
        raise ModelError(f"{args.model}: cannot be used as it is: {'; '.join(description['problems'])}")


def push(args: argparse.Namespace) -> None:
    from blspkd.reporting.publish import push_to_hub

    print(push_to_hub(args.model, args.repo, dry_run=args.dry_run, with_base_models=args.with_base_models,
                      private=args.private))


def pull(args: argparse.Namespace) -> None:
    from blspkd.reporting.publish import fetch

    print(fetch(args.repo, args.folder, args.revision))


def features(args: argparse.Namespace) -> None:
    from blspkd.evaluation.decoding import fingerprint_model
    from blspkd.evaluation.speech_matrices import write_speech_matrices
    from blspkd.models.base_models import choose_device, model_identity
    from blspkd.models.listener import Listener
    from blspkd.models.model_folder import find_folder

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    logging.getLogger("blspkd").setLevel(logging.INFO)
    device, folder = choose_device(args.device), find_folder(args.model, args.revision)
    written = write_speech_matrices(partial(Listener.from_pretrained, folder, device),
                                    fingerprint_model(folder, model_identity), args.data_dir, args.out_dir, args.what,
                                    args.batch_size, args.batch_seconds)
    print(f"{args.out_dir}: {'written' if written else 'is up to date'}", file=sys.stderr)


def _load(args: argparse.Namespace, python: str = "") -> "SpeechLLM":
    """python: the interpreter in which vLLM runs the LLM."""
    places = {key: getattr(args, key) for key in ("llm", "speech_encoder") if getattr(args, key)}
    options = {"revision": args.revision, "device": args.device, "dtype": args.dtype, "base_models": places}
    if python:
        from blspkd.serve.vllm_engine import VllmSpeechLLM

        return VllmSpeechLLM.from_pretrained(args.model, python, **options)
    from blspkd.models.chat import SpeechLLM

    return SpeechLLM.from_pretrained(args.model, **options)


def _key_in(path: str) -> str:
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api_key_file {path}: cannot be read ({error}); write the key into a text file") from None
    if not key:
        raise ConfigError(f"--api_key_file {path}: is empty; write the key into it")
    return key


def _parse(words: list[str] | None) -> argparse.Namespace:
    """argparse alone takes no further FILE behind an option."""
    parser = _parser()
    args, rest = parser.parse_known_args(words)
    if rest and (not hasattr(args, "files") or any(word.startswith("-") and word != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.files += rest
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="blspkd", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"blspkd {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    talk = _add(commands, chat, "reply to recordings or typed texts, one after another; without any, a conversation",
                epilog="In a conversation: /audio FILE, /mic, /new, /quit, and /help for the rest.")
    talk.add_argument("files", metavar="FILE", nargs="*", help="a recording; -: its bytes come from standard input")
    talk.add_argument("-i", "--instruction", default="", help="what to do with each; default: what it says itself")
    talk.add_argument("--text", action="append", default=[],
                      help="a typed text in the place of a recording; may be given again")
    talk.add_argument("--system", default="", help="a system message; default: the training's")
    talk.add_argument("--mic", metavar="SECONDS", nargs="?", type=float, const=0.0,
                      help="record from the microphone; without SECONDS until Enter is pressed")
    talk.add_argument("--interactive", action="store_true", help="a conversation, to which the files are attached")
    talk.add_argument("--chunk", metavar="SECONDS", type=chunk_seconds,
                      help="cut long recordings into pieces of at most this length, and reply to each")
    talk.add_argument("--temperature", type=temperature, default=0.0, help="0: always the most probable (default)")
    talk.add_argument("--top_p", type=share, default=1.0,
                      help="with a temperature: draw among the most probable tokens of this share (default: 1)")
    talk.add_argument("--seed", type=int, help="with a temperature: the same seed, the same reply")
    _add_listening(talk)

    words = _add(commands, transcribe, "write down what is said in recordings; one that cannot be used stops no other")
    words.add_argument("files", metavar="FILE", nargs="+", help="a recording; -: its bytes come from standard input")
    words.add_argument("-i", "--instruction", default="", help="what to ask the model for; default: to repeat the text")
    words.add_argument("--chunk", metavar="SECONDS", type=chunk_seconds, default=30.0,
                       help="pieces that long recordings are cut into (default: 30)")
    words.add_argument("--output", metavar="DIR", help="write DIR/<name>.txt instead of printing")
    words.add_argument("--json", action="store_true", help='{"file": ..., "text": ...}, one line each')
    _add_listening(words)

    server = _add(commands, serve, "answer on the network as OpenAI's API does, and show a page to talk on",
                  epilog="A key may also stand in the environment variable BLSPKD_API_KEY.")
    for field in fields(Settings):
        if field.name in SERVER_OPTIONS:
            several = {"action": "append"} if field.name == "allowed_hosts" else {"type": type(field.default)}
            default = "" if several.get("action") else f" (default: {field.default})"
            server.add_argument(f"--{field.name}", help=SERVER_OPTIONS[field.name] + default, **several)
    server.add_argument("--api_key_file", metavar="FILE", help="a file with the key that clients have to give")
    server.add_argument("--open", action="store_true", help="open the page in a browser of this machine")
    _add_loading(server)

    about = _add(commands, info, "what a model is and whether all of it is there, without loading it")
    about.add_argument("--json", action="store_true", help="for programs")

    give = _add(commands, push, "upload to the Hugging Face hub, with a model card, and compare what arrived")
    give.add_argument("repo", metavar="REPO", help="USER/NAME")
    give.add_argument("--dry_run", action="store_true", help="show files, sizes and the card; upload nothing")
    give.add_argument("--with_base_models", action="store_true",
                      help="upload the base models too, so that others can load the model; mind their licences")
    give.add_argument("--private", action="store_true", help="a new repository is private")

    get = _add(commands, pull, "download from the Hugging Face hub", model=False)
    get.add_argument("repo", metavar="REPO", help="USER/NAME")
    get.add_argument("folder", metavar="FOLDER", type=Path, help="new folder")
    get.add_argument("--revision", help="branch, tag or commit (default: main)")

    matrices = _add(commands, features, "what the model makes of a data directory, as Kaldi ark,scp and utt2num_frames")
    matrices.add_argument("data_dir", metavar="DATA_DIR", type=Path)
    matrices.add_argument("out_dir", metavar="OUT_DIR", type=Path, help="new folder")
    matrices.add_argument("--what", choices=("frames", "alpha", "tokens"), default="frames",
                          help="encoder frames, firing weights, or speech tokens (default: frames)")
    matrices.add_argument("--batch_size", type=count, default=16, help="utterances together (default: 16)")
    matrices.add_argument("--batch_seconds", type=positive, default=240.0, help="of audio together (default: 240)")
    _add_device(matrices)
    return parser


def _add(commands, run, what: str, epilog: str | None = None, model: bool = True) -> argparse.ArgumentParser:
    """A sub-command, named after the function that runs it."""
    parser = commands.add_parser(run.__name__, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=epilog,
                                 allow_abbrev=False)
    parser.set_defaults(run=run)
    if model:
        parser.add_argument("model", metavar="MODEL", help="exp/<tag>/model, or USER/NAME on the hub")
        parser.add_argument("--revision", help="of a model on the hub: branch, tag or commit (default: main)")
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda:1 ... (default: auto)")


def _add_loading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--llm", metavar="NAME", help="folder or id of its LLM, if that is not where it was")
    parser.add_argument("--speech_encoder", metavar="NAME", help="the same for its speech encoder")
    _add_device(parser)
    parser.add_argument("--dtype", default="", choices=("float32", "bfloat16", "float16"), metavar="TYPE",
                        help="of the frozen weights: float32, bfloat16 or float16 (default: as in the training)")


def _add_listening(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channel", type=index, help="of recordings with several, counted from 0")
    parser.add_argument("--max_new_tokens", type=count, default=256, help="longest reply (default: 256)")
    _add_loading(parser)


if __name__ == "__main__":
    main()
