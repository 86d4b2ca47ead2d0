"""Fetch parts of LibriSpeech, check and unpack them.

    python local/download.py downloads/LibriSpeech dev-clean test-clean

From openslr.org, resource 12 (CC BY 4.0, see LICENSE.TXT there). Makes <folder>/<part>; a part that is there is left
alone, and what was interrupted goes on. local/md5sum.txt has the archives' official checksums.
"""

import argparse
import hashlib
import http.client
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from blspkd.errors import DataError, command
from blspkd.progress import progress_bar

URL = "https://www.openslr.org/resources/12"
SIZES = {"dev-clean": 337, "dev-other": 314, "test-clean": 346, "test-other": 328, "train-clean-100": 6390,
         "train-clean-360": 23100, "train-other-500": 30600}  # MB of the archive, rounded; unpacked hardly more
MARGIN = 1.05  # unpacked by archive, and to spare
ATTEMPTS = 5
BLOCK = 1 << 20
CHECKSUMS = Path(__file__).with_name("md5sum.txt")


def official_checksum(part: str) -> str:
    rows = dict(reversed(line.split()) for line in CHECKSUMS.read_text(encoding="utf-8").splitlines())
    return rows[f"{part}.tar.gz"]


def is_whole(archive: Path, part: str) -> bool:
    """Whether this is the official archive, byte for byte."""
    if not archive.is_file():
        return False
    digest = hashlib.md5(usedforsecurity=False)
    with open(archive, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest() == official_checksum(part)


def check_space(folder: Path, parts: list[str]) -> None:
    """Say what will be fetched, and how much space that takes. Raises DataError where there is less."""
    started = sum(path.stat().st_size for part in parts for path in folder.glob(f"{part}.tar.gz*")) / 1e6
    sizes = [SIZES[part] * MARGIN for part in parts]
    needed = (sum(sizes) + max(sizes) - started) / 1e3  # every archive goes when it is unpacked
    free = shutil.disk_usage(folder).free / 1e9
    listed = ", ".join(f"{part} ({SIZES[part] / 1e3:.1f} GB)" for part in parts)
    print(f"to fetch: {listed}; this needs {needed:.1f} GB in {folder}, where {free:.1f} GB are free", flush=True)
    if free < needed:
        raise DataError(f"{folder}: {free:.1f} GB are free, and {needed:.1f} GB are needed; free some space, choose "
                        "another folder (LIBRISPEECH in db.sh), or fewer parts (local/data.sh --help)")


def fetch(url: str, path: Path) -> None:
    """Append to `path` what it still lacks of `url`. Raises DataError when that fails again and again."""
    for attempt in range(ATTEMPTS):
        time.sleep(attempt)
        try:
            _go_on(url, path)
            return
        except (OSError, http.client.HTTPException) as error:
            reason = error
            if isinstance(error, urllib.error.HTTPError):
                if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return  # it lacks nothing
                if error.code < 500:
                    break
    raise DataError(f"{url}: cannot be fetched ({reason}); start the same command again to go on, or name a mirror "
                    '(--local_data_opts "--download true --url URL")')


def _go_on(url: str, path: Path) -> None:
    have = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=60) as response:
        resumed = getattr(response, "status", 200) == 206
        length = int(response.headers["Content-Length"]) + (have if resumed else 0)
        with open(path, "ab" if resumed else "wb") as file, \
                progress_bar(path.name.removesuffix(".part"), total=length // BLOCK, unit="MiB") as bar:
            bar.update((have if resumed else 0) // BLOCK)
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(file.tell() // BLOCK - bar.n)
    if path.stat().st_size != length:
        raise http.client.IncompleteRead(b"", length - path.stat().st_size)


def unpack(archive: Path, part: str) -> None:
    """Make the folder `part` beside `archive`, which is then removed."""
    folder = archive.parent / f".unpack-{part}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    done = subprocess.run(["tar", "-xzf", archive, "-C", folder], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise DataError(f"{archive}: cannot be unpacked ({done.stderr.strip()}); mend that and start the same "
                        "command again")
    for text in (folder / "LibriSpeech").glob("*.TXT"):  # licence, readers, books
        text.replace(archive.parent / text.name)
    (folder / "LibriSpeech" / part).replace(archive.parent / part)
    shutil.rmtree(folder)
    archive.unlink()


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--url", default=URL, help="folder of the archives")
    parser.add_argument("folder", type=Path)
    parser.add_argument("parts", nargs="+", metavar="PART")
    args = parser.parse_args(words)
    unknown = [part for part in args.parts if part not in SIZES]
    if unknown:
        raise DataError(f"LibriSpeech has no part '{unknown[0]}'; its parts are {', '.join(SIZES)}")
    args.folder.mkdir(parents=True, exist_ok=True)
    missing = [part for part in args.parts if not (args.folder / part).is_dir()]
    if missing:
        check_space(args.folder, missing)
    for part in missing:
        archive = args.folder / f"{part}.tar.gz"
        if not is_whole(archive, part):
            partial = archive.with_name(archive.name + ".part")
            fetch(f"{args.url}/{archive.name}", partial)
            if not is_whole(partial, part):
                raise DataError(f"{partial}: is not the official archive (its MD5 sum differs from local/md5sum.txt); "
                                "remove it and start the same command again")
            partial.replace(archive)
        print(f"{part}: fetched and checked; unpacking", flush=True)
        unpack(archive, part)


if __name__ == "__main__":
    main()
