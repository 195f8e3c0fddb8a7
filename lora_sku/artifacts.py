"""The run directory: the name of everything a run leaves behind, and who may write into it."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from lora_sku.errors import StorageError
from lora_sku.storage import atomic_file, remove_unfinished, storage_errors, write_text


class RunDirectory:
    """One run's folder.

    ``harmful_adapter`` exists only between the two stages, unless the recipe asks to keep it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.memory = path / "memory.json"
        self.checkpoints = path / "checkpoints"
        self.trackers = path / "trackers"
        self.harmful_adapter = path / "harmful-adapter"
        self.adapter = path / "adapter"
        self.sweep = path / "sweep.json"
        self.evaluation = path / "evaluation.json"
        self.generations = path / "generations.jsonl"
        self.report = path / "report.html"

    def _artifacts(self) -> list[Path]:
        return [value for name, value in vars(self).items() if name != "path"]

    def holds_a_run(self) -> bool:
        """Anything of a run is here."""
        return any(path.exists() for path in self._artifacts())

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse what must not begin here; touches nothing.

        Raises:
            StorageError: if a run is here and neither ``resume`` nor ``overwrite`` is asked for, or
                if there is none to resume.
        """
        if resume and not self.recipe.exists():
            raise StorageError(
                "there is no run to resume",
                where=str(self.path),
                remedy="Start it without --resume, or name its folder with --output.",
            )
        if self.holds_a_run() and not resume and not overwrite:
            raise StorageError(
                "a run is already here",
                where=str(self.path),
                remedy="Go on with it by --resume, replace it by --overwrite, or choose another"
                " folder by --output.",
            )

    def clear(self) -> None:
        """Make the folder, and remove what a run left here and nothing else.

        Raises:
            StorageError: if the folder cannot be written.
        """
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            for path in self._artifacts():
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
                remove_unfinished(path)

    def remove_harmful_weights(self, *, keep_adapter: bool) -> None:
        """Remove the checkpoints, the harmful adapter unless it is to be kept, and all remnants."""
        for folder in (self.checkpoints, *(() if keep_adapter else (self.harmful_adapter,))):
            if folder.exists():
                shutil.rmtree(folder)
        for path in self._artifacts():
            remove_unfinished(path)

    @contextmanager
    def metrics_log(self, *, keep_steps: int) -> Iterator[TextIO]:
        """metrics.jsonl open for appending; lines of steps after ``keep_steps`` are taken out.

        A killed run may have written lines beyond its last checkpoint; those steps come again.
        """
        lines = []
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        complete = [line for line in lines if line.endswith("\n")]
        kept = [line for line in complete if json.loads(line)["step"] <= keep_steps]
        write_text(self.metrics, "".join(kept))
        with storage_errors(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            yield file

    def write_generations(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """generations.jsonl, a line a prompt."""
        with (
            atomic_file(self.generations) as temporary,
            temporary.open("w", encoding="utf-8") as file,
        ):
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
