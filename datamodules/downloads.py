"""Files over HTTP: resumed where the connection broke, checked, and under their name only when whole."""

import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import IO

from datamodules.checksums import Digests, Progress, write_record
from datamodules.errors import DataError
from datamodules.file_locks import try_lock

_READ_BYTES = 1 << 16
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_HTML = (b"<!doctype html", b"<html")
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


class _AllThereError(Exception):
    """The server says that the file ends where what is there ends."""


class _UnreachableError(_BrokenOffError):
    """No answer from the server."""


class _RefusedError(_BrokenOffError):
    """An answer that another attempt will not change."""


def download(
    url: str,
    path: Path | str,
    checksum: str | None = None,
    progress: Progress | None = None,
    max_bytes: int | None = None,
    attempts: int = 5,
    wait_s: float = 1.0,
    timeout_s: float = 30.0,
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
        max_bytes: a longer file is refused; None = of any length.
        attempts: how many to make in a row that bring nothing new.
        wait_s: seconds before the second attempt; doubled before each further one.
        timeout_s: seconds without a byte after which an attempt has failed.

    Raises:
        DownloadError: unreachable, refused, an HTML page or a file of another size in its place, or broken
            off again and again; what has arrived is kept.
        DataError: another checksum than the published one (nothing is kept), no room on the disk, the file
            cannot be written, or another process is downloading it.
    """
    source = _Source(url, checksum, max_bytes, timeout_s)
    path = Path(path).expanduser()
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened_alone(partial) as file:
            digests = _receive_all(source, file, progress, attempts, wait_s)
            file.flush()
            os.fsync(file.fileno())
            try:
                digests.compare(path, f"what came from {url} is thrown away, so start the download again")
            except DataError:
                partial.unlink()
                _version_file(partial).unlink()
                raise
            partial.replace(path)
            _version_file(partial).unlink()
        write_record(path, url, digests.sha256)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error}); free the disk or choose another folder"
        ) from error


@dataclass(frozen=True)
class _Source:
    """What is downloaded, and what is taken for it; see `download`."""

    url: str
    checksum: str | None
    max_bytes: int | None
    timeout_s: float


@contextmanager
def _opened_alone(partial: Path) -> Iterator[IO[bytes]]:
    """The partial file, open to read and append, and locked against other processes."""
    with partial.open("a+b") as file:
        if try_lock(file) is False:
            raise DataError(f"{partial}: another process is downloading this file; wait until it is done")
        try:
            yield file
        finally:
            if file.seek(0, os.SEEK_END) == 0:  # nothing has arrived
                partial.unlink(missing_ok=True)
                _version_file(partial).unlink(missing_ok=True)


def _receive_all(
    source: _Source, file: IO[bytes], progress: Progress | None, attempts: int, wait_s: float
) -> Digests:
    """Attempt after attempt, until `file` is whole."""
    num_failures = 0
    has_answered = False
    most = file.seek(0, os.SEEK_END)
    while True:
        try:
            return _receive(source, file, progress)
        except _BrokenOffError as error:
            size = file.seek(0, os.SEEK_END)
            num_failures = 1 if size > most else num_failures + 1
            most = max(most, size)
            is_offline = isinstance(error, _UnreachableError) and not has_answered
            if is_offline or isinstance(error, _RefusedError) or num_failures >= attempts:
                raise DownloadError(f"{source.url}: {error}") from error
            has_answered = has_answered or not isinstance(error, _UnreachableError)
        time.sleep(wait_s * 2 ** (num_failures - 1))


def _receive(source: _Source, file: IO[bytes], progress: Progress | None) -> Digests:
    """One attempt: asks for what is not there yet, or for all where the server's version is not known."""
    version_file = _version_file(Path(file.name))
    version = version_file.read_text() if version_file.is_file() else ""
    start = file.seek(0, os.SEEK_END) if version else 0
    try:
        return _receive_from(start, version, source, file, progress)
    except _AllThereError:  # an attempt was killed after the last byte
        return _digests_so_far(source, file)


def _digests_so_far(source: _Source, file: IO[bytes]) -> Digests:
    """Of what has arrived; the file is at its end then."""
    digests = Digests(source.checksum)
    file.seek(0)
    digests.update_from(file)
    return digests


def _receive_from(
    start: int, version: str, source: _Source, file: IO[bytes], progress: Progress | None
) -> Digests:
    """The file from a byte on, or all of it where the server sends that."""
    with _answer(source, start, version, file) as answer:
        start, total = _extent(answer, start, file)
        chunk = _read(answer)
        # nothing of what is there goes before it is sure that the file is coming
        _refuse_other_things(answer, source, total, chunk if start == 0 else b"")
        _check_room(Path(file.name), start, total)
        file.truncate(start)
        _version_file(Path(file.name)).write_text(_version(answer.headers))
        digests = _digests_so_far(source, file)
        while chunk:
            if source.max_bytes is not None and file.tell() + len(chunk) > source.max_bytes:
                file.truncate(0)
                raise _too_long(f"more than {source.max_bytes:,}", source.max_bytes)
            file.write(chunk)
            digests.update(chunk)
            if progress:
                progress(file.tell(), total)
            chunk = _read(answer)
    if total is not None and file.tell() != total:
        raise _BrokenOffError(f"the connection broke after {file.tell():,} of {total:,} bytes")
    return digests


def _answer(source: _Source, start: int, version: str, file: IO[bytes]) -> http.client.HTTPResponse:
    # identity: the bytes of the file itself, not packed for the journey
    request = urllib.request.Request(source.url, headers={"Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", version)
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=source.timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.headers["Content-Range"] == f"bytes */{start}":
            raise _AllThereError from error
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            file.truncate(0)  # what is there is longer than the file: the next attempt asks for all of it
        kind = _BrokenOffError if error.code in _PASSING_STATUSES else _RefusedError
        raise kind(f"the server answers {error.code} ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _UnreachableError(f"not reachable ({getattr(error, 'reason', error)})") from error
    return answer


def _extent(answer: http.client.HTTPResponse, wanted: int, file: IO[bytes]) -> tuple[int, int | None]:
    """Where in the file the answer's body begins, and how long the file is, where the server says so."""
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        return 0, answer.length  # the whole file: it has changed, or parts cannot be had
    sent = answer.headers["Content-Range"]
    found = _CONTENT_RANGE.fullmatch(sent or "")
    if found:
        first, last = int(found[1]), int(found[2])
        total = None if found[3] == "*" else int(found[3])
        has_its_length = answer.length in (None, last - first + 1)
        if first == wanted and has_its_length and (total is None or last < total):
            return wanted, total
    file.truncate(0)  # such a server is asked for all of it
    raise _BrokenOffError(f"asked for the bytes from {wanted:,} on, the server sent others ({sent})")


def _refuse_other_things(
    answer: http.client.HTTPResponse, source: _Source, total: int | None, beginning: bytes
) -> None:
    """Refuses what is not the file, or could be cut short without anybody noticing."""
    is_html = answer.headers.get_content_type() == "text/html"
    if is_html or beginning.lstrip()[:20].lower().startswith(_HTML):
        raise _RefusedError(
            "an HTML page came in place of the file, such as networks show before a login; open the address "
            "in a browser"
        )
    if source.max_bytes is not None and total is not None and total > source.max_bytes:
        raise _too_long(f"{total:,}", source.max_bytes)
    if total is None and not answer.chunked and source.checksum is None:
        raise _RefusedError("the server does not say how long the file is, and it could end early unnoticed")


def _too_long(size: str, max_bytes: int) -> _RefusedError:
    return _RefusedError(f"the server sends {size} bytes, and the file has {max_bytes:,} at most")


def _check_room(partial: Path, start: int, total: int | None) -> None:
    free = shutil.disk_usage(partial.parent).free
    if total is not None and partial.stat().st_size - start + free < total - start:
        raise DataError(
            f"{partial}: {(total - start) / 1e6:,.1f} MB are still to come, and {free / 1e6:,.1f} MB are "
            "free there; free the disk or choose another folder"
        )


def _read(answer: http.client.HTTPResponse) -> bytes:
    """What has arrived: to wait for more would lose it where no more comes."""
    try:
        return answer.read1(_READ_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(f"the connection broke ({error})") from error


def _version(headers: Message) -> str:
    """What tells one version of a file from another; a weak ETag does not promise the same bytes."""
    etag = headers["ETag"]
    return etag if etag and not etag.startswith("W/") else headers["Last-Modified"] or ""


def _version_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.version")
