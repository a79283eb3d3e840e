"""Downloads that ask nothing, say their size, go on where they were cut off, and leave a whole data set or none."""

import hashlib
import http.client
import json
import os
import shutil
import stat
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from graphattn._version import __version__
from graphattn.data import raw
from graphattn.data.files import NOT_WRITABLE, locked, megabytes, room_for, sync_directory, write_whole

LARGE = 50_000_000  # bytes; above it a download needs yes=True
ATTEMPTS = 3
PAUSE = 1.0  # seconds between attempts
TIMEOUT = 30.0  # seconds without a single byte
RECEIPT = "DOWNLOADED.json"


class Receipt(NamedTuple):
    """What was downloaded, as `DOWNLOADED.json` beside the data says it."""

    url: str
    date: str  # UTC, ISO 8601
    size: int  # bytes
    sha256: str


class _CutOff(Exception):
    """The connection ended before the file did; what came is kept and the rest can be asked for."""


def download(url: str, path: Path, *, yes: bool = False, sha256: str | None = None) -> Receipt:
    """Downloads one file to `path`, which appears when it is complete and its checksum is right.

    What has come is kept in `path` + ".part". The next attempt, now or in another process, asks for the rest if the
    server can send it and still has the same file (ETag or date, and size), and starts again otherwise.

    Args:
        url: http or https.
        path: where the file goes; its directory must exist.
        yes: agree to more than 50 MB.
        sha256: what the file must have, if known.

    Raises:
        ValueError: if the file is large and `yes` is False, or has another sha256; nothing is kept.
        ConnectionError: if the server cannot be reached or refuses, or the connection breaks each time.
        OSError: if the disk is full; nothing is kept.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"the address must begin with http:// or https://, got {url!r}.")
    part, notes = _beside(path, ".part"), _beside(path, ".part.json")
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE)
        try:
            _transfer(url, part, notes, yes)
            break
        except _CutOff as error:
            reason = str(error)
    else:
        have = part.stat().st_size if part.exists() else 0
        kept = f" {megabytes(have)} are kept and the next run goes on from there." if have and notes.exists() else ""
        raise ConnectionError(
            f"the download of {url} did not finish ({reason}).{kept} Try again, or fetch it by other means, unpack it, "
            "and pass the directory as root."
        )
    found, size = _sha256(part), part.stat().st_size
    notes.unlink(missing_ok=True)
    if sha256 is not None and found != sha256:
        part.unlink()
        raise ValueError(
            f"{url} has sha256 {found}, but the card of the data set says {sha256}. The file was removed. "
            "Try again; if it repeats, the address serves another file than the one the card was made from."
        )
    os.replace(part, path)
    return Receipt(url, datetime.now(UTC).isoformat(timespec="seconds"), size, found)


def install(url: str, folder: Path, *, yes: bool = False, sha256: str | None = None) -> None:
    """Downloads and unpacks a data set into `folder`, which appears when it is complete.

    The archive must hold one folder in the official layout, under any name. `DOWNLOADED.json` in it keeps address,
    date, size and sha256. Two processes at once end well: the second waits and finds the folder.

    Raises:
        ValueError: if the archive is damaged, holds something else, or names paths outside of it.
        ConnectionError, OSError: as `download`; nothing unfinished is left but the part that can go on.
    """
    with _told_where(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _told_where(folder.parent), locked(folder):
        if folder.exists():
            return
        archive, unpacking = _beside(folder, ".zip"), folder.with_name(f".{folder.name}.unpacking")
        try:
            receipt = download(url, archive, yes=yes, sha256=sha256)
            shutil.rmtree(unpacking, ignore_errors=True)  # of a process that was killed
            found = unpack(archive, unpacking)
            write_whole(found / RECEIPT, json.dumps(receipt._asdict(), indent=2).encode() + b"\n")
            os.replace(found, folder)
            sync_directory(folder.parent)
        finally:
            shutil.rmtree(unpacking, ignore_errors=True)
            archive.unlink(missing_ok=True)


def unpack(archive: Path, into: Path) -> Path:
    """Unpacks a zip and returns the folder in it that has the official layout.

    Raises:
        ValueError: if the archive is damaged, names a path outside of `into` or a link, or lacks files of the layout.
        OSError: if the disk is full; `into` is then removed.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            for member in members:
                name = PurePosixPath(member.filename.replace("\\", "/"))
                if name.is_absolute() or ".." in name.parts or stat.S_ISLNK(member.external_attr >> 16):
                    raise ValueError(
                        f"{archive.name} names {member.filename!r}, which would be written outside of its folder. "
                        "Nothing was unpacked; do not trust this archive."
                    )
            with room_for(sum(member.file_size for member in members), into, into):
                into.mkdir(parents=True, exist_ok=True)
                for member in members:
                    zipped.extract(member, into)  # checks the CRC of each
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(
            f"{archive.name} is damaged or no zip archive ({error}). It was removed; try again, or fetch it by other "
            "means, unpack it, and pass the directory as root."
        ) from error
    folders = sorted({path.parents[1] for path in into.rglob("edge.csv.gz")})
    if len(folders) != 1 or (missing := raw.missing_files(folders[0])):
        lacks = f"lacks {', '.join(missing)}" if len(folders) == 1 else f"has raw/edge.csv.gz {len(folders)} times"
        raise ValueError(
            f"{archive.name} {lacks}, so it is no data set in the official layout. It was removed; check the address."
        )
    for path in folders[0].rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())  # or a power cut after the rename could leave names without contents
    return folders[0]


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _notes(part: Path, notes: Path, url: str) -> dict[str, Any]:
    """Returns what is known of the file that `part` is the beginning of, {} where it cannot be gone on with."""
    try:
        known = json.loads(notes.read_text(encoding="utf-8"))
        fits = known["url"] == url and part.stat().st_size <= known["size"] and known["validator"]
        return known if fits else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _transfer(url: str, part: Path, notes: Path, yes: bool) -> None:
    """Brings `part` to its full length, with one request.

    Raises:
        _CutOff: if another request may help.
    """
    known = _notes(part, notes, url)
    have = part.stat().st_size if known else 0
    if known and have == known["size"]:
        return
    headers = {"User-Agent": f"graphattn/{__version__}"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known["validator"]}
    with _opened(url, headers, part, notes) as response:
        if response.status == 206:
            size = known.get("size", 0)
            if response.headers.get("Content-Range") != f"bytes {have}-{size - 1}/{size}":
                _forget(part, notes)
                raise _CutOff("the server sent another range than was asked for")
        else:  # all of it: it never had a part, cannot send ranges, or has another file now
            have, size = 0, _length(response)
        if not yes:
            _check_size(url, size)
        rest = "" if not have else f", {megabytes(have)} of it already here"
        said = megabytes(size) if size is not None else "of unknown size"
        print(f"graphattn: downloading {url} ({said}{rest})", file=sys.stderr)
        etag = response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        with room_for(size or 0, part, part, notes):
            if not have:
                part.unlink(missing_ok=True)
                notes.unlink(missing_ok=True)
                if size is not None and validator:
                    write_whole(notes, json.dumps({"url": url, "size": size, "validator": validator}).encode())
        with open(part, "ab") as file, _progress(size, have) as advance:
            for chunk in _chunks(response):
                if not yes and size is None and file.tell() + len(chunk) > LARGE:
                    _forget(part, notes)
                    _check_size(url, file.tell() + len(chunk))
                with room_for(size or 0, part, part, notes):
                    file.write(chunk)
                    file.flush()
                advance(len(chunk))
            with room_for(size or 0, part, part, notes):
                os.fsync(file.fileno())
        got = part.stat().st_size
        if size is not None and got != size:
            if got > size:
                _forget(part, notes)
            raise _CutOff(f"the connection ended after {got:,} of {size:,} bytes")


@contextmanager
def _told_where(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise PermissionError(
            error.errno,
            "this directory may not be written to. Pass another root, or set GRAPHATTN_DATA. The directory was",
            os.fspath(directory),
        ) from error


def _forget(part: Path, notes: Path) -> None:
    part.unlink(missing_ok=True)
    notes.unlink(missing_ok=True)


def _length(response: http.client.HTTPResponse) -> int | None:
    length = response.headers.get("Content-Length")
    return int(length) if length and length.isdigit() else None


def _check_size(url: str, size: int | None) -> None:
    if size is not None and size > LARGE:
        raise ValueError(
            f"{url} is {megabytes(size)} or more; above {megabytes(LARGE)} nothing is downloaded unless you say so. "
            "Pass yes=True (--yes, or data.yes: true in the configuration); if you have the data, pass its root."
        )


@contextmanager
def _opened(url: str, headers: dict[str, str], part: Path, notes: Path) -> Iterator[http.client.HTTPResponse]:
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:  # the file is shorter than what we have: it is another one
                _forget(part, notes)
                raise _CutOff("the server has another file now") from error
            if error.code >= 500:
                raise _CutOff(f"HTTP {error.code} {error.reason}") from error
            raise ConnectionError(
                f"{url} answers HTTP {error.code} {error.reason}. Check the address in a browser; "
                "if you have the data, pass its directory as root."
            ) from error
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        raise _CutOff(f"cannot reach the server: {getattr(error, 'reason', None) or error}") from error
    with response:
        yield response


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(1 << 18)
        except (OSError, http.client.HTTPException) as error:
            partial = getattr(error, "partial", b"")
            if partial:
                yield partial
            raise _CutOff(f"the connection broke: {error}") from error
        if not chunk:
            return
        yield chunk


@contextmanager
def _progress(size: int | None, have: int) -> Iterator[Callable[[int], Any]]:
    """Yields what to call with the number of new bytes: a bar if somebody watches and rich is there, else nothing."""
    try:
        if not sys.stderr.isatty():
            raise ImportError
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
    except ImportError:
        yield lambda num_bytes: None
        return
    with Progress(BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=size, completed=have)
        yield lambda num_bytes: progress.advance(bar, num_bytes)
