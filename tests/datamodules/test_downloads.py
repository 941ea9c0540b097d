"""Downloads from a real server: whole, resumed, started over, refused."""

import fcntl
import hashlib
import os
import shutil
import socket

import pytest

from datamodules.checksums import record_file, verify_file
from datamodules.downloads import DownloadError, download
from datamodules.errors import DataError
from tests.file_server import serve_files

CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with serve_files(file=CONTENT) as served:
        yield served


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "file.bin"


def fetch(server, path, **settings):
    download(f"{server.url}/file", path, **{"wait_s": 0.001, **settings})


def names(path):
    return sorted(file.name for file in path.parent.iterdir())


def is_whole(path):
    return path.read_bytes() == CONTENT and names(path) == ["file.bin", "file.bin.sha256"]


def test_a_file_arrives_whole_with_its_record(server, path):
    told = []
    fetch(server, path, progress=lambda done, total: told.append((done, total)))
    assert is_whole(path)
    assert record_file(path).read_text() == f"# 3000000 bytes from {server.url}/file\n{SHA256}  file.bin\n"
    assert told[-1] == (3_000_000, 3_000_000)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert server.ranges == [None]


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_published_checksum_that_fits(server, path, algorithm):
    fetch(server, path, checksum=f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}")
    assert is_whole(path)


def test_a_broken_connection_is_resumed(server, path):
    server.cuts = [1_000_000, 500_000]
    fetch(server, path)
    assert is_whole(path)
    assert verify_file(path) == SHA256
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_another_process_goes_on_where_one_was_killed(server, path):
    server.cuts = [1_000_000]
    with pytest.raises(DownloadError, match=r"broke after 1,000,000 of 3,000,000 bytes"):
        fetch(server, path, attempts=1)
    assert names(path) == ["file.bin.partial", "file.bin.partial.version"]
    told = []
    fetch(server, path, progress=lambda done, total: told.append((done, total)))
    assert is_whole(path)
    assert server.ranges[1:] == ["bytes=1000000-"]
    assert min(done for done, _ in told) > 1_000_000


def test_a_process_that_was_killed_after_the_last_byte_fetches_nothing_again(server, path):
    server.cuts = [1_000_000]
    with pytest.raises(DownloadError):
        fetch(server, path, attempts=1)
    path.with_name("file.bin.partial").write_bytes(CONTENT)
    fetch(server, path, attempts=1, checksum=f"sha256:{SHA256}")
    assert is_whole(path)
    assert server.ranges[1:] == ["bytes=3000000-"]


@pytest.mark.parametrize("fault", ["no parts", "no versions", "changed", "longer than the file", "no mark"])
def test_it_starts_over_where_it_cannot_go_on(server, path, fault):
    server.cuts = [1_000_000]
    server.sends_parts = fault != "no parts"
    server.sends_versions = fault != "no versions"
    if fault == "changed":
        server.files["file"] = CONTENT[::-1]
    with pytest.raises(DownloadError):
        fetch(server, path, attempts=1)
    server.files["file"] = CONTENT
    if fault == "longer than the file":
        with path.with_name("file.bin.partial").open("ab") as partial:
            partial.truncate(4_000_000)
    if fault == "no mark":
        path.with_name("file.bin.partial.version").unlink()
    fetch(server, path)
    assert is_whole(path)


def test_a_file_that_is_cut_off_every_time(server, path):
    server.sends_parts = False
    server.cuts = [2_000_000] * 9
    with pytest.raises(DownloadError, match=r"127.0.0.1.*/file: the connection broke after 2,000,000 of"):
        fetch(server, path, attempts=3)
    assert len(server.ranges) == 3
    assert not path.exists()


def test_attempts_count_anew_with_every_new_byte(server, path):
    server.cuts = [500_000] * 5
    fetch(server, path, attempts=2)
    assert is_whole(path)


def test_a_server_that_is_busy_is_asked_again(server, path):
    server.statuses = [503, 429]
    fetch(server, path)
    assert is_whole(path)


def test_a_file_that_is_not_there_is_asked_for_once(server, path):
    with pytest.raises(DownloadError, match=r"/nothing: the server answers 404 \(Not Found\)"):
        download(f"{server.url}/nothing", path)
    assert len(server.ranges) == 1
    assert names(path) == []


def test_no_server_is_noticed_at_once(path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
        with pytest.raises(DownloadError, match=r"/file: not reachable \(.*refused"):
            download(url, path, wait_s=1000.0)
    assert names(path) == []


def test_another_checksum_leaves_nothing(server, path):
    wrong = "0" * 64
    with pytest.raises(DataError) as refused:
        fetch(server, path, checksum=f"sha256:{wrong}")
    for part in (str(path), SHA256, wrong, f"{server.url}/file", "start the download again"):
        assert part in str(refused.value)
    assert not isinstance(refused.value, DownloadError), "it can be had, and is not what was published"
    assert names(path) == []


def test_a_stall_keeps_what_has_arrived(server, path):
    server.stalls = [100_000, 50_000]
    fetch(server, path, timeout_s=0.2)
    assert is_whole(path)
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("fault", ["in chunks", "without length", "without length, with checksum"])
def test_a_body_that_ends_early(server, path, fault):
    server.is_chunked = fault == "in chunks"
    server.sends_length = False
    server.cuts = [1_000_000]
    settings = {"checksum": f"sha256:{SHA256}"} if "checksum" in fault else {}
    message = {
        "in chunks": r"broke \(IncompleteRead",
        "without length": "does not say how long the file is",
        "without length, with checksum": f"its sha256 is .*, the published one is {SHA256}",
    }[fault]
    with pytest.raises(DataError, match=message):
        fetch(server, path, attempts=1, **settings)
    assert not path.exists()
    if fault != "without length":
        fetch(server, path, **settings)
        assert is_whole(path)


def test_a_part_that_is_not_the_one_asked_for(server, path):
    server.cuts = [1_000_000]
    server.shift = 7
    fetch(server, path)
    assert is_whole(path)
    assert server.ranges == [None, "bytes=1000000-", None]


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>Log in", b"\n<HTML lang=en>", None])
def test_a_page_in_place_of_the_file(server, path, page):
    """Of which the servers of logins often say that all is well; what had arrived stays."""
    server.cuts = [1_000_000]
    with pytest.raises(DownloadError, match="broke after"):
        fetch(server, path, attempts=1)
    if page is None:
        server.content_type = "text/html; charset=utf-8"
    else:
        server.files["file"] = page
    with pytest.raises(DownloadError, match="/file: an HTML page came in place of the file"):
        fetch(server, path)
    assert len(server.ranges) == 2, "another attempt brings the same page"
    assert path.with_name("file.bin.partial").read_bytes() == CONTENT[:1_000_000]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_file_that_is_too_long(server, path, is_chunked):
    server.is_chunked = is_chunked
    with pytest.raises(DownloadError, match=r"the server sends .* the file has 2,999,999 at most"):
        fetch(server, path, max_bytes=2_999_999)
    assert names(path) == []
    fetch(server, path, max_bytes=3_000_000)
    assert is_whole(path)


def test_a_file_that_the_disk_has_no_room_for(server, path, monkeypatch):
    server.cuts = [1_000_000]
    usage = shutil.disk_usage(path.anchor)._replace(free=1_999_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=3_000_000))
    with pytest.raises(DownloadError):
        fetch(server, path, attempts=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=r"2\.0 MB are still to come.*free the disk or choose another"):
        fetch(server, path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=2_000_000))
    fetch(server, path)
    assert is_whole(path)


def test_two_processes_do_not_write_the_same_file(server, path):
    path.parent.mkdir()
    with path.with_name("file.bin.partial").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"file\.bin\.partial: another process is downloading"):
            fetch(server, path)


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .* choose another folder"):
        fetch(server, tmp_path / "taken" / "file.bin")
