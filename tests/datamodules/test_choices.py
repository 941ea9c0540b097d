import pytest

from datamodules.choices import Choice
from datamodules.errors import DataError


class Fruit(Choice):
    APPLE = "apple"
    PLUM = "plum"


def test_known_value_gives_the_member():
    assert Fruit("plum") is Fruit.PLUM
    assert f"{Fruit.PLUM}" == "plum"


def test_unknown_value_names_the_known_ones():
    with pytest.raises(DataError, match=r"^Fruit 'pear' is unknown; choose one of: apple, plum$"):
        Fruit("pear")
