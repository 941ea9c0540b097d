"""Records of downloaded files, and files that have changed since."""

import hashlib
import subprocess

import pytest

from datamodules.checksums import check_size, record_file, verify_file, write_record
from datamodules.errors import DataError

CONTENT = b"what is the capital of Peru\t['Lima']\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "questions.csv"
    path.write_bytes(CONTENT)
    write_record(path, "https://example.org/questions.csv")
    return path


def test_an_unchanged_file_passes(path):
    told = []
    check_size(path)
    assert verify_file(path, progress=lambda done, total: told.append((done, total))) == SHA256
    assert verify_file(path, f"sha256:{SHA256}") == SHA256
    assert verify_file(path, f"md5:{hashlib.md5(CONTENT).hexdigest()}") == SHA256
    assert told == [(len(CONTENT), len(CONTENT))]


def test_sha256sum_reads_the_record(path):
    command = ["sha256sum", "--check", "--strict", record_file(path).name]
    assert subprocess.run(command, cwd=path.parent, capture_output=True, check=False).returncode == 0


def test_a_file_without_a_record_passes(path):
    record_file(path).unlink()
    path.write_bytes(b"mine")
    check_size(path)
    verify_file(path)


def test_a_shorter_file_is_noticed_by_its_size(path):
    path.write_bytes(CONTENT[:-5])
    for check in (check_size, verify_file):
        with pytest.raises(DataError, match=r"questions\.csv: 32 bytes, 37 when it was downloaded; delete"):
            check(path)


def test_another_content_of_the_same_size_is_noticed_by_the_whole_check(path):
    path.write_bytes(CONTENT[::-1])
    check_size(path)
    with pytest.raises(DataError, match=rf"its sha256 is .*, the recorded one is {SHA256}; delete the file"):
        verify_file(path)


def test_another_published_checksum(path):
    with pytest.raises(DataError, match="the published one is 123; delete the file and download it again"):
        verify_file(path, "md5:123")


def test_a_broken_record(path):
    record_file(path).write_text("nothing")
    with pytest.raises(DataError, match=r"questions\.csv\.sha256: not a record"):
        check_size(path)
