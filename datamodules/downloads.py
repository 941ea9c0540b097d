"""Files over HTTP: resumed where the connection broke, checked, and under their name only when whole."""

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: two processes that download the same file are not kept apart there
    fcntl = None  # type: ignore[assignment]

from datamodules.checksums import CHUNK_BYTES, Digests, Progress, write_record
from datamodules.errors import DataError

_TIMEOUT_S = 30.0
# Of the answers that say no, those that another try may change.
_PASSING_STATUSES = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)


class DownloadError(DataError):
    """A file that cannot be had from its server; it may be fetched by other means."""


class _BrokenOffError(Exception):
    """One attempt that did not bring the whole file."""


class _UnreachableError(_BrokenOffError):
    """No answer from the server."""


class _RefusedError(_BrokenOffError):
    """An answer that another attempt will not change."""


def download(
    url: str,
    path: Path | str,
    checksum: str | None = None,
    progress: Progress | None = None,
    attempts: int = 5,
    wait_s: float = 1.0,
) -> None:
    """Downloads a file, going on where an earlier attempt, of this process or another, broke off.

    What has arrived waits in `PATH.partial`, with the server's mark of its version (ETag or date) beside it:
    if the file has changed since, or the server does not send parts, the download starts over. Size and
    SHA-256 of the whole file are kept, see `checksums`.

    Args:
        url: where the file is.
        path: where it goes; missing folders are made.
        checksum: published one, "md5:..." or "sha256:...".
        progress: see `Progress`.
        attempts: how many to make in a row that bring nothing new.
        wait_s: seconds before the second attempt; doubled before each further one.

    Raises:
        DownloadError: unreachable, refused, or broken off again and again; what has arrived is kept.
        DataError: another checksum than the published one (nothing is kept), the file cannot be written, or
            another process is downloading it.
    """
    path = Path(path).expanduser()
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened_alone(partial) as file:
            digests = _receive_all(url, file, checksum, progress, attempts, wait_s)
            file.flush()
            _version_file(partial).unlink()
            try:
                digests.compare(path, f"what came from {url} is thrown away, so start the download again")
            except DataError:
                partial.unlink()
                raise
            partial.replace(path)
        write_record(path, url, digests.sha256)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error}); free the disk or choose another folder"
        ) from error


@contextmanager
def _opened_alone(partial: Path) -> Iterator[IO[bytes]]:
    """The partial file, open to read and append, and locked against other processes."""
    with partial.open("a+b") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{partial}: another process is downloading this file; wait until it is done"
            ) from error
        try:
            yield file
        finally:
            if file.seek(0, os.SEEK_END) == 0:  # nothing has arrived
                partial.unlink(missing_ok=True)
                _version_file(partial).unlink(missing_ok=True)


def _receive_all(
    url: str, file: IO[bytes], checksum: str | None, progress: Progress | None, attempts: int, wait_s: float
) -> Digests:
    """Attempt after attempt, until `file` is whole."""
    num_failures = 0
    has_answered = False
    most = file.seek(0, os.SEEK_END)
    while True:
        try:
            return _receive(url, file, checksum, progress)
        except _BrokenOffError as error:
            size = file.seek(0, os.SEEK_END)
            num_failures = 1 if size > most else num_failures + 1
            most = max(most, size)
            is_offline = isinstance(error, _UnreachableError) and not has_answered
            if is_offline or isinstance(error, _RefusedError) or num_failures >= attempts:
                raise DownloadError(f"{url}: {error}") from error
            has_answered = has_answered or not isinstance(error, _UnreachableError)
        time.sleep(wait_s * 2 ** (num_failures - 1))


def _receive(url: str, file: IO[bytes], checksum: str | None, progress: Progress | None) -> Digests:
    """One attempt: asks for what is not there yet, or for all where the server's version is not known."""
    version_file = _version_file(Path(file.name))
    version = version_file.read_text() if version_file.is_file() else ""
    start = file.seek(0, os.SEEK_END) if version else 0
    with _answer(url, start, version, file) as answer:
        if answer.status != HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the whole file: it has changed, or parts cannot be had
        file.truncate(start)
        version_file.write_text(_version(answer.headers))
        length = answer.headers["Content-Length"]
        total = start + int(length) if length else None
        digests = Digests(checksum)
        file.seek(0)
        digests.update_from(file)
        while chunk := _read(answer):
            file.write(chunk)
            digests.update(chunk)
            if progress:
                progress(file.tell(), total)
    if total is not None and file.tell() != total:
        raise _BrokenOffError(f"the connection broke after {file.tell():,} of {total:,} bytes")
    return digests


def _answer(url: str, start: int, version: str, file: IO[bytes]) -> http.client.HTTPResponse:
    # identity: the bytes of the file itself, not packed for the journey
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version)
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            file.truncate(0)  # what is there is longer than the file: the next attempt asks for all of it
        kind = _BrokenOffError if error.code in _PASSING_STATUSES else _RefusedError
        raise kind(f"the server answers {error.code} ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _UnreachableError(f"not reachable ({getattr(error, 'reason', error)})") from error
    return answer


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(f"the connection broke ({error})") from error


def _version(headers: Message) -> str:
    """What tells one version of a file from another; a weak ETag does not promise the same bytes."""
    etag = headers["ETag"]
    return etag if etag and not etag.startswith("W/") else headers["Last-Modified"] or ""


def _version_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.version")
