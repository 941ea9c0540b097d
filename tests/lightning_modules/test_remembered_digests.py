"""Digests that hold while a file is what it was, and no longer."""

import hashlib
import os

from lightning_modules.remembered_digests import remembered_sha256


def test_a_file_that_has_just_changed_is_read_again(tmp_path):
    file, remembered = tmp_path / "file", tmp_path / "digests"
    for content in (b"one", b"two", b"six"):
        file.write_bytes(content)
        assert remembered_sha256(file, remembered) == hashlib.sha256(content).hexdigest()
    long_ago = file.stat().st_mtime_ns - 10**10
    os.utime(file, ns=(long_ago, long_ago))
    (tmp_path / "in the way").touch()
    for folder in (tmp_path / "in the way", remembered, remembered):
        assert remembered_sha256(file, folder) == hashlib.sha256(b"six").hexdigest()
    [kept] = remembered.iterdir()
    kept.write_bytes(b"\xff\xfe broken")
    assert remembered_sha256(file, remembered) == hashlib.sha256(b"six").hexdigest()
