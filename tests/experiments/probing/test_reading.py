from experiments.probing.reading import choose_rows


def test_rows_with_both_kinds_are_sought():
    kinds = [False] * 10 + [True, False, True] + [False] * 5
    assert choose_rows(kinds, 8) == [0, 10, 1, 12, 2, 4, 3, 5]
    assert sorted(choose_rows(kinds, 100)) == list(range(18))
