"""Anything that a file may hold, for property tests."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
"""Any value."""


@st.composite
def changed(draw: Any, content: bytes) -> bytes:
    """Some bytes in the place of others: one changed, a part lost, cut short, or anything else."""
    start = draw(st.integers(0, len(content)))
    end = draw(st.integers(start, min(start + 8, len(content))) | st.just(len(content)))
    return content[:start] + draw(st.binary(max_size=8)) + content[end:]


@st.composite
def with_another_value(draw: Any, value: Any) -> Any:
    """A JSON value with one of its values, or itself, replaced by any."""
    keys = list(value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ())
    if not keys or draw(st.integers(0, 4)) == 0:
        return draw(JSON | st.just(10**400) | st.just("[" * 2000))
    key = draw(st.sampled_from(keys))
    if isinstance(value, dict) and draw(st.integers(0, 4)) == 0:
        return {name: other for name, other in value.items() if name != key}
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = draw(with_another_value(value[key]))
    return copy


def assert_names(file: Path, error: Exception) -> None:
    """The message says which file it is, or the folder, or the set of files, that it is of."""
    assert file.name in str(error) or str(file.parents[1]) in str(error), error
