"""Runs the cells of the study that are not finished, one after the other, and writes its pages."""

import fnmatch
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.config import ConfigError
from experiments.study.cells import Cell, Results
from experiments.study.material import Material
from experiments.study.parts import PARTS
from experiments.study.readers import NoSuchSignalError, Readings
from experiments.study.results_file import TABLE, Table, joined

log = logging.getLogger(__name__)

SECOND_READER = "second_reader.txt"
"""Within the folder of the cells: the name of the second reader that they are of."""


@dataclass(frozen=True)
class Study:
    """What is to be run, and where it goes.

    Attributes:
        material: that all cells share.
        cells: to run, in order.
        results: of the finished ones.
        out: folder of the pages.
    """

    material: Material
    cells: list[Cell]
    results: Results
    out: Path

    @classmethod
    def of(
        cls,
        experiment: str,
        overrides: Sequence[str],
        parts: Sequence[str],
        only: Sequence[str] | None,
        num_questions: int,
        num_unseen: int,
        num_seeds: int,
        out: Path,
        second: str | None = None,
    ) -> "Study":
        """As the command line says.

        Raises:
            ConfigError: an unknown part, no cell of such a name, or settings that cannot be.
        """
        unknown = [part for part in parts if part not in PARTS]
        if unknown:
            raise ConfigError(f"part {unknown[0]!r} is unknown; choose of: {', '.join(PARTS)}")
        if num_seeds < 1:
            raise ConfigError(f"--seeds {num_seeds} must be at least 1")
        cells = [
            cell for part in PARTS if part in (parts or PARTS) for cell in PARTS[part].cells(range(num_seeds))
        ]
        if only is not None:
            cells = _chosen(cells, only)
        material = Material.of(experiment, overrides, num_questions, num_unseen, second)
        return cls(material, cells, Results(material.cells_folder), out)

    def list_cells(self) -> None:
        """Prints all cells, and which are finished."""
        for part in dict.fromkeys(cell.part for cell in self.cells):
            print(f"# {part}: {PARTS[part].meaning}")
        for cell in self.cells:
            print(f"{'finished' if self.results.has(cell) else 'to run  '}  {cell.name}")

    def run(self) -> int:
        """Runs what is not finished; what fails is said, and tried again the next time.

        Returns:
            How many failed, those left out not counted.

        Raises:
            ConfigError: finished cells are of another second reader.
        """
        self._note_second_reader()
        to_run = [cell for cell in self.cells if not self.results.has(cell)]
        print(f"{len(self.cells)} cells, {len(self.cells) - len(to_run)} of them finished", flush=True)
        readings, started = Readings(self.material), time.perf_counter()
        num_failed = 0
        for number, cell in enumerate(to_run, start=1):
            begun = time.perf_counter()
            try:
                result = PARTS[cell.part].run(cell, self.material, readings)
            except NoSuchSignalError as error:
                print(f"{number}/{len(to_run)} {cell.name}: left out, {error}", flush=True)
                continue
            except Exception as error:  # one cell must not end all others
                num_failed += 1
                print(f"{number}/{len(to_run)} {cell.name}: {error}", file=sys.stderr, flush=True)
                log.debug("%s", cell.name, exc_info=True)
                continue
            result.seconds = time.perf_counter() - begun
            self.results.add(result)
            left = (time.perf_counter() - started) / number * (len(to_run) - number)
            print(
                f"{number}/{len(to_run)} {cell.name}: {result.headline} ({result.seconds:.0f} s, about "
                f"{left / 60:.0f} min left)",
                flush=True,
            )
        if num_failed:
            print(f"{num_failed} cells failed; the same command tries them again", file=sys.stderr)
        return num_failed

    def _note_second_reader(self) -> None:
        """Cells call a second reader `second`, whichever it is, so those of a folder are of one alone.

        Raises:
            ConfigError: they are of another one.
        """
        if self.material.second is None:
            return
        name, path = _name_of(self.material.second), self.results.folder / SECOND_READER
        path.parent.mkdir(parents=True, exist_ok=True)
        noted = path.read_text(encoding="utf-8") if path.is_file() else name
        if noted != name:
            raise ConfigError(
                f"--second {self.material.second}: the cells in {self.results.folder} are of the second "
                f"reader {noted}; set runs to another folder, and give another --out"
            )
        path.write_text(name, encoding="utf-8")

    def write_pages(self) -> None:
        """The table of all results, and the pages that are made of it."""
        from experiments.study.pages import write_pages

        results = self.results.all()
        if results:
            second = _name_of(self.material.second)
            table = joined(Table(results, self.material.settings, second), self.out / TABLE)
            write_pages(self.out, table)
        elif (self.out / TABLE).is_file():
            write_pages(self.out)
        else:
            raise ConfigError(f"there are no results in {self.results.folder} yet; run some cells first")
        print(f"{self.out / 'README.md'}")


def _name_of(second: str | None) -> str:
    """Of the second reader, wherever its file is."""
    return "" if second is None else Path(second).name


def _chosen(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Those of the first pattern, then those of the next, none twice."""
    chosen: dict[str, Cell] = {}
    for pattern in patterns:
        found = {cell.name: cell for cell in cells if fnmatch.fnmatch(cell.name, pattern)}
        if not found:
            raise ConfigError(f"--only {pattern}: no cell has such a name; --list shows all")
        chosen = {**chosen, **{name: cell for name, cell in found.items() if name not in chosen}}
    return list(chosen.values())
