"""Whatever becomes of a file: it reads as it was written, or one message names it."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.errors import DataError
from datamodules.sealed_files import (
    DamagedFileError,
    SealedFile,
    checksums_of,
    json_line,
    read_json,
    read_json_lines,
    read_with_checksum,
    seal,
    verify_files,
    verify_folder,
    whole_folder,
    with_checksum,
    write_json,
)
from tests.any_bytes import JSON, assert_names
from tests.drill.readers import KINDS, files_of, with_byte_changed

# ---- seals ----


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_blocks_of_any_size(tmp_path, size):
    path = tmp_path / "file"
    content = os.urandom(size)
    path.write_bytes(content)
    seal(path)
    sealed = SealedFile(path)
    sealed.verify()
    assert sealed.size == size
    assert path.read_bytes()[:size] == content
    if size:
        path.write_bytes(with_byte_changed(path.read_bytes(), size - 1, 1))
        first = (size - 1) // (1 << 20) * (1 << 20)
        with pytest.raises(DamagedFileError, match=rf"bytes {first:,} to {size - 1:,} are not"):
            SealedFile(path).verify()


@given(content=st.binary(max_size=200), data=st.data())
def test_no_change_of_a_sealed_file_goes_unseen(tmp_path, content, data):
    path = tmp_path / "file"
    path.write_bytes(content)
    seal(path, [end for end in (len(content) // 3, len(content)) if end] if content else None)
    whole = path.read_bytes()
    at, by = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    kept = data.draw(st.integers(0, len(whole) - 1))
    for damaged in (with_byte_changed(whole, at, by), whole[:kept], whole + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match="file is damaged"):
            SealedFile(path).verify()


@given(content=st.binary(max_size=300))
def test_other_files_have_no_seal(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="file is damaged"):
        SealedFile(path)


# ---- texts ----


@given(content=st.dictionaries(st.text().filter(lambda key: key != "checksum"), JSON, max_size=4))
def test_json_comes_back(tmp_path, content):
    write_json(tmp_path / "x.json", content)
    assert repr(read_json(tmp_path / "x.json")) == repr(content)  # NaN is not equal to itself


@given(content=st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_message(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    try:
        found: object = read_json(path)
    except DamagedFileError as error:
        found = {"said": error}
        assert_names(path, error)
    assert isinstance(found, dict)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "a JSON list in the place"),
        ("{", "no JSON"),
        ("[" * 20_000, "nested too deep"),
        ("3", "JSON int"),
    ],
)
def test_no_object_is_named(tmp_path, content, said):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DamagedFileError, match=rf"x\.json is damaged: .*{said}"):
        read_json(tmp_path / "x.json")


def test_who_edits_a_file_takes_the_checksum_out(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    edited = path.read_text().replace('"a": 1', '"a": 2')
    path.write_text(edited)
    with pytest.raises(DamagedFileError, match="its checksum differs"):
        read_json(path)
    path.write_text('{"a": 2}')
    assert read_json(path) == {"a": 2}


@given(text=st.text(max_size=40).filter(lambda text: "checksum" not in text), data=st.data())
def test_no_change_of_a_text_with_a_checksum_goes_unseen(tmp_path, text, data):
    path = tmp_path / "x.yaml"
    text = text.encode("utf-8", "ignore").decode() + "\n"
    path.write_bytes(with_checksum(text).encode())
    assert read_with_checksum(path) == text
    whole = path.read_bytes()
    at, by = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    path.write_bytes(with_byte_changed(whole, at, by))
    try:
        found = read_with_checksum(path)
    except DamagedFileError as error:
        assert_names(path, error)
    else:  # the comment itself is none any more, which YAML reads over or stumbles on
        assert found.endswith(text)


@given(objects=st.lists(st.dictionaries(st.text(), JSON, max_size=3), min_size=1, max_size=3), data=st.data())
def test_no_change_of_a_line_with_a_checksum_goes_unseen(tmp_path, objects, data):
    objects = [{key: value for key, value in each.items() if key != "checksum"} for each in objects]
    path = tmp_path / "lines"
    whole = "".join(map(json_line, objects)).encode()
    path.write_bytes(whole)
    expected = [repr(each) for each in objects]  # NaN is not equal to itself
    assert [repr(found) for found in read_json_lines(path)] == expected
    at, by = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    for damaged in (with_byte_changed(whole, at, by), whole[:at]):
        path.write_bytes(damaged)
        found = [repr(each) for each in read_json_lines(path) if each is not None]
        assert len(found) < len(expected)
        assert all(each in expected for each in found)


def test_files_are_compared_by_name(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/one", "two"):
        (tmp_path / name).write_text(name)
    known = checksums_of(tmp_path, [tmp_path / "a" / "one", tmp_path / "two"])
    verify_files(tmp_path, known)
    (tmp_path / "two").write_text("twO")
    with pytest.raises(DamagedFileError, match="two is damaged"):
        verify_files(tmp_path, known)
    (tmp_path / "two").unlink()
    with pytest.raises(DamagedFileError, match=r"two cannot be read \(No such file"):
        verify_files(tmp_path, known)


def test_a_folder_is_whole_or_not_there(tmp_path):
    folder = tmp_path / "cache" / "folder"
    with pytest.raises(TypeError), whole_folder(folder) as partial:
        write_a_folder(partial, text=3)
    assert list(folder.parent.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        verify_folder(folder)
    with whole_folder(folder) as partial:
        write_a_folder(partial)
    verify_folder(folder)
    assert list(folder.parent.iterdir()) == [folder]


def write_a_folder(folder, text="text") -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "file").write_text(text)


def test_of_two_writers_of_a_folder_the_first_stays_unless_it_is_damaged(tmp_path):
    folder = tmp_path / "folder"
    with whole_folder(folder) as second:
        write_a_folder(second, "second")
        with whole_folder(folder) as first:
            write_a_folder(first, "first")
    assert (folder / "inner" / "file").read_text() == "first"
    (folder / "inner" / "file").write_text("furst")
    with pytest.raises(DamagedFileError, match="inner/file is damaged"):
        verify_folder(folder)
    with whole_folder(folder) as third:
        write_a_folder(third, "third")
    assert (folder / "inner" / "file").read_text() == "third"
    assert list(tmp_path.iterdir()) == [folder]
    (folder / "checksums.json").unlink()
    with pytest.raises(DamagedFileError, match=r"folder is damaged: it has no checksums\.json"):
        verify_folder(folder)


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path):
    (tmp_path / "file").touch()
    refused = pytest.raises(DataError, match=r"file/folder cannot be written \(Not a directory\)")
    with refused, whole_folder(tmp_path / "file" / "folder"):
        pass


# ---- every kind of file that a run reads back ----


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def written(request, tmp_path_factory):
    """A kind, a folder with one of it, and what is read of it."""
    folder = tmp_path_factory.mktemp("kind") / "files"
    folder.mkdir()
    request.param.write(folder)
    return request.param, folder, request.param.read(folder)


@given(data=st.data())
def test_no_change_of_a_byte_is_silently_wrong(written, data):
    kind, folder, expected = written
    file = data.draw(st.sampled_from(list(files_of(folder))))
    whole = file.read_bytes()
    at, by = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    file.write_bytes(with_byte_changed(whole, at, by))
    try:
        assert_same_or_named(kind, folder, file, expected)
    finally:
        file.write_bytes(whole)


@given(data=st.data(), content=st.binary(max_size=80))
def test_no_file_of_other_bytes_is_silently_wrong(written, data, content):
    """Anything at all, and what a full disk or a kill leaves: the beginning."""
    kind, folder, expected = written
    file = data.draw(st.sampled_from(list(files_of(folder))))
    whole = file.read_bytes()
    for other in (content, whole[: data.draw(st.integers(0, len(whole) - 1))]):
        file.write_bytes(other)
        try:
            assert_same_or_named(kind, folder, file, expected)
        finally:
            file.write_bytes(whole)


def assert_same_or_named(kind, folder, file, expected) -> None:
    found, noticed = kind.read_or_notice(folder)
    if noticed is None:
        assert kind.is_same(found, expected)
    else:
        assert_names(file, noticed)
