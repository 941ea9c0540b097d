"""What the choice of attention heads prints."""

from typing import Any

from rich.console import Console

from experiments.show.console import console_table, new_console
from lightning_modules.head_lists import HeadList


def print_heads(listed: HeadList, console: Console | None = None) -> None:
    """What the best heads are worth on held-out questions, and which they are."""
    console = console or new_console()
    console.print(
        console_table(
            f"the {listed.rows}'s rows, heads by {listed.method}: teacher AUC on held-out questions",
            ("heads", "AUC", "gain over all [95%]", "AUC at equal length"),
            [_cells(row) for row in listed.held_out],
            caption=f"{listed.num_questions} questions, each judged by heads chosen on others.\nThe best of "
            "several rows flatters: confirm it on other questions",
            bold=[i for i, row in enumerate(listed.held_out) if row["num_heads"] == listed.num_heads],
        )
    )
    best = listed.best(listed.num_heads)
    deepest = max(layers[-1] for layers, _ in best.parts)
    # the heads are there to be copied, and a wrapped text is another one
    console.print(f"the best {listed.num_heads} on all questions: {best}", soft_wrap=True, markup=False)
    console.print(f"a pass for their attention alone ends in layer {deepest} (from 0 on)")


def _cells(row: dict[str, Any]) -> list[str]:
    equal = row["auc_at_equal_length"]
    return [
        str(row["num_heads"]),
        f"{row['auc']:.3f}",
        f"{row['gain']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]",
        "-" if equal is None else f"{equal:.3f}",
    ]
