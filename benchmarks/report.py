"""A dated report: Markdown for people, the raw figures as JSON and maybe a plot beside it."""

import datetime
import itertools
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_sku.errors import StorageError
from lora_sku.storage import write_json, write_text

REPORTS = Path(__file__).resolve().parent / "reports"


@dataclass(frozen=True)
class Table:
    """A titled table; ``note`` says how to read it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def render(self) -> str:
        """As Markdown; the first column is text, the others are figures."""
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [f"| {' | '.join(_cell(c) for c in row)} |" for row in (self.columns, *self.rows)]
        table = "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])
        return f"## {self.title}\n\n{self.note + chr(10) * 2 if self.note else ''}{table}\n"


@dataclass(frozen=True)
class Report:
    """What one benchmark found.

    Attributes:
        name: Of its files.
        title: Headline.
        command: As it was typed.
        machine: Where it ran and with what.
        rulers: How the figures were taken.
        tables: In the order of reading.
        raw: All figures, for JSON.
    """

    name: str
    title: str
    command: str
    machine: Mapping[str, str]
    rulers: Sequence[str]
    tables: Sequence[Table]
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """A promise and what was measured.

    Attributes:
        promise: In words.
        bound: The number promised.
        measured: None if this run did not measure it.
        at_least: The figure must reach the bound; else it must not exceed it.
        unit: Of both.
    """

    promise: str
    bound: float
    measured: float | None
    at_least: bool
    unit: str

    @property
    def verdict(self) -> str:
        """Met, missed or not measured."""
        if self.measured is None:
            return "not measured"
        met = self.measured >= self.bound if self.at_least else self.measured <= self.bound
        return "met" if met else "**missed**"

    def row(self) -> tuple[str, str, str, str]:
        """A row of the targets' table."""
        sign = "at least" if self.at_least else "at most"
        measured = "" if self.measured is None else f"{self.measured:.2f} {self.unit}"
        return self.promise, f"{sign} {self.bound:g} {self.unit}", measured, self.verdict


def targets_table(targets: Sequence[Target]) -> Table:
    """The promises beside what was measured."""
    columns = ("", "target", "measured", "")
    return Table("Targets", columns, [target.row() for target in targets])


def typed_command(module: str) -> str:
    """The command line of this process."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def require_folder(folder: Path) -> None:
    """Make the reports' folder, before hours of measuring.

    Raises:
        StorageError: if nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(
            f"no report can be written here: {error.strerror}",
            where=str(folder),
            remedy="Name another folder by --reports.",
        ) from error


def write_report(
    report: Report,
    folder: Path,
    plot: Callable[[Path], None] | None = None,
    *,
    day: datetime.date | None = None,
) -> Path:
    """Write YYYY-MM-DD-NAME.md, .json and .svg; a second report of a day gets a number more.

    Args:
        report: What to write.
        folder: Made if it is missing.
        plot: Draws into the file it is given; None draws nothing.
        day: Of the report; None takes today's.

    Returns:
        The Markdown file.
    """
    day = day or datetime.date.today()
    folder.mkdir(parents=True, exist_ok=True)
    stem = _free_stem(folder, f"{day.isoformat()}-{report.name}")
    head = {"command": report.command, "machine": dict(report.machine)}
    write_json(folder / f"{stem}.json", {**head, **report.raw})
    if plot is not None:
        plot(folder / f"{stem}.svg")
    write_text(folder / f"{stem}.md", _markdown(report, day, stem, drawn=plot is not None))
    return folder / f"{stem}.md"


def _free_stem(folder: Path, stem: str) -> str:
    """The first of stem, stem-2, stem-3, ... that no report has: hours of measuring stay."""
    numbered = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(name for name in numbered if not (folder / f"{name}.md").exists())


def _markdown(report: Report, day: datetime.date, stem: str, *, drawn: bool) -> str:
    machine = [f"- {name}: {value}" for name, value in report.machine.items()]
    parts = [
        f"# {report.title}\n",
        f"{day.isoformat()}. Raw figures: [{stem}.json]({stem}.json).\n",
        f"```sh\n{report.command}\n```\n",
        *[table.render() for table in report.tables],
        *([f"![{report.title}]({stem}.svg)\n"] if drawn else []),
        "## How it was measured\n",
        "\n".join(f"- {ruler}" for ruler in report.rulers) + "\n",
        "## Machine\n",
        "\n".join(machine) + "\n",
    ]
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
