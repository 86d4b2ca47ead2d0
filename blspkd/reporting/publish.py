"""Share a trained model on the Hugging Face hub, and get one from there.

What is pushed is downloaded again, compared and loaded. A model that others could not load is refused, and so
are files that run code when they are loaded (pickles).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from blspkd import __version__
from blspkd.errors import BlspkdError, ConfigError, ModelError
from blspkd.files import atomic_path, contents_digest, read_json
from blspkd.models.base_records import BASES, BaseModels
from blspkd.models.model_folder import TRAINED, copy_with_base_models, find_folder, read_config
from blspkd.reporting.model_card import RESULTS, results_of, write_card

CARD = "README.md"
PEFT = "plora/adapter_config.json"
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib", ".h5"}
LARGEST = 50 * 10**9  # bytes of a file; the hub takes no larger one


@dataclass(frozen=True)
class Upload:
    """What is to be pushed."""

    repo: str
    files: dict[str, Path | bytes]  # name in the repository -> file, or contents that differ from the file's
    left_out: list[str]  # names of files that do not belong to a model

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by name."""
        return {name: len(content) if isinstance(content, bytes) else content.stat().st_size
                for name, content in sorted(self.files.items())}


@contextmanager
def prepare(model: str, repo: str, with_base_models: bool = False) -> Iterator[Upload]:
    """What `publish` would push; a copy with the base models lies in a temporary folder as long as the block lasts.

    Raises ModelError for base models that others cannot load and for files that cannot be pushed.
    """
    folder = find_folder(model)
    if with_base_models:
        with TemporaryDirectory(prefix="blspkd-push-") as scratch:
            copy = Path(scratch) / "model"
            copy_with_base_models(folder, copy)
            yield _upload(folder, copy, repo)
        return
    _refuse_private_base_models(folder)
    yield _upload(folder, folder, repo)


def report(upload: Upload) -> str:
    """Files with their sizes, and the card."""
    width = max(map(len, upload.sizes))
    lines = [f"{name:<{width}}  {size:>15,} bytes" for name, size in upload.sizes.items()]
    left_out = [f"not pushed: {', '.join(upload.left_out)}"] if upload.left_out else []
    total = f"{len(lines)} files, {sum(upload.sizes.values()) / 1e6:,.1f} MB, for {upload.repo}"
    return "\n".join([*lines, total, *left_out, "", upload.files[CARD].decode().rstrip()])


def publish(upload: Upload, private: bool = False) -> str:
    """Push, download again, compare and load; returns the address. Raises ModelError."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="blspkd", library_version=__version__)
    additions = [CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
                 for name, content in upload.files.items()]
    with _hub(upload.repo, "cannot be pushed to", "log in as one who may write there (`hf auth login`)"):
        address = api.create_repo(upload.repo, private=private or None, exist_ok=True)
        commit = api.create_commit(upload.repo, additions, commit_message=f"Model of blspkd {__version__}")
    _compare(upload, str(commit.oid))
    return f"{address} at {commit.oid}: {len(additions)} files, downloaded again, found equal, and loaded"


def push_to_hub(model: str | Path, repo: str, *, dry_run: bool = False, with_base_models: bool = False,
                private: bool = False) -> str:
    """Push a trained model's folder with a model card; returns its address, or, as a dry run, files and card.

    with_base_models: push these too; without them, base models that others cannot load are refused (ModelError).
    """
    with prepare(str(model), repo, with_base_models) as upload:
        return report(upload) if dry_run else publish(upload, private)


def fetch(repo: str, folder: Path, revision: str | None = None) -> str:
    """Download `repo` into the new folder `folder`. Raises ModelError, and ConfigError for a used `folder`."""
    if Path(repo).is_dir():
        raise ConfigError(f"{repo}: is a folder; name a repository of the hub, USER/NAME")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder}: is there already; name a new folder")
    snapshot = find_folder(repo, revision)
    with atomic_path(folder) as temporary:
        shutil.copytree(snapshot, temporary, copy_function=shutil.copyfile)  # of the files that the cache's links name
    files = [path for path in folder.rglob("*") if path.is_file()]
    return f"{folder}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:,.1f} MB"


def _refuse_private_base_models(folder: Path) -> None:
    """Raise ModelError where a base model is neither on the hub nor inside `folder`."""
    records, config = BaseModels.read(folder), read_config(folder).model
    for key, what in BASES.items():
        record, said = getattr(records, key), getattr(config, key)
        is_inside = bool(record.path) and not record.path.startswith("..") and not os.path.isabs(record.path)
        if not (record.id or is_inside) and (record.path or Path(said).exists()):
            raise ModelError(f"{folder}: its {what} is the folder {record.absolute or said}, which others do not have; "
                             "push it too, by --with_base_models (mind its licence), or train with one of the hub")


def _upload(trained: Path, folder: Path, repo: str) -> Upload:
    """The files of `folder`, which is `trained` or a copy of it. Raises ModelError for one that cannot be pushed."""
    files: dict[str, Path | bytes] = {}
    left_out = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix in PICKLES:
            raise ModelError(f"{path}: can run code when it is loaded (pickle), and is not pushed; remove it, or save "
                             "it as safetensors")
        if path.stat().st_size > LARGEST:
            raise ModelError(f"{path}: is larger than {LARGEST / 1e9:g} GB, which the hub does not take; split it")
        if name.startswith(".") or ".tmp-" in name or not any(fnmatch(path.name, pattern) for pattern in TRAINED):
            left_out.append(name)
        else:
            files[name] = path
    results = results_of(trained)
    files |= _without_places(folder) | ({RESULTS: results} if results else {})
    return Upload(repo, {**files, CARD: write_card(trained, repo).encode()}, left_out)


def _without_places(folder: Path) -> dict[str, bytes]:
    """What peft wrote about PLoRA, without the folder of this machine in which the LLM lay."""
    place = str(read_json(folder / PEFT).get("base_model_name_or_path") or "")
    if not Path(place).is_dir():
        return {}
    names = [path.relative_to(folder).as_posix() for pattern in ("*.json", "*.md")
             for path in (folder / PEFT).parent.glob(pattern)]
    return {name: (folder / name).read_bytes().replace(place.encode(), Path(place).name.encode()) for name in names}


def _compare(upload: Upload, commit: str) -> None:
    """Raise ModelError unless what is on the hub is what was pushed, and can be loaded from there."""
    from huggingface_hub import snapshot_download

    with TemporaryDirectory(prefix="blspkd-push-") as cache:
        with _hub(upload.repo, "was pushed, but cannot be downloaded again from", "look at the repository"):
            snapshot = Path(snapshot_download(upload.repo, revision=commit, cache_dir=cache))
        for name, content in upload.files.items():
            wanted = sha256(content).hexdigest() if isinstance(content, bytes) else contents_digest(content)
            if not (snapshot / name).is_file() or contents_digest(snapshot / name) != wanted:
                raise ModelError(f"{upload.repo}: {name} is not there as it was pushed; push again")
        compare_loaded(upload, snapshot)


def compare_loaded(upload: Upload, snapshot: Path) -> None:
    """Load what was downloaded. Raises ModelError unless that works and gives the trained weights that were pushed."""
    from blspkd.models.chat import SpeechLLM  # imported here: with torch, for which a dry run does not wait

    with TemporaryDirectory(prefix="blspkd-push-") as scratch:
        again = Path(scratch) / "model"
        try:
            SpeechLLM.from_pretrained(snapshot, device="cpu").save_pretrained(again)
        except BlspkdError as error:
            reason = str(error).removeprefix(f"{snapshot}: ")
            raise ModelError(f"{upload.repo}: was pushed, but cannot be loaded from there ({reason}); push a model "
                             "that can be loaded") from None
        for path in sorted(again.rglob("*.safetensors")):
            name = path.relative_to(again).as_posix()
            if not _are_equal(path, upload.files.get(name)):
                raise ModelError(f"{upload.repo}: {name}: other weights are loaded from there than were pushed; push "
                                 "again")


def _are_equal(loaded: Path, pushed: Path | bytes | None) -> bool:
    """Whether two files of safetensors hold the same values."""
    import torch  # imported here, as above
    from safetensors.torch import load_file

    if not isinstance(pushed, Path):
        return False
    first, second = load_file(loaded), load_file(pushed)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@contextmanager
def _hub(repo: str, what: str, remedy: str) -> Iterator[None]:
    """In this block whatever the hub refuses is a ModelError; its library raises errors of many kinds."""
    try:
        yield
    except BlspkdError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{repo}: {what} {os.environ.get('HF_ENDPOINT', 'the hub')} ({reason}); {remedy}") from None
