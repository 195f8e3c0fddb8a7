"""What is kept of a trade-off benchmark, so that a killed one goes on: a JSON file a unit."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.tradeoff_scores import Answers, Rulers, Scores
from benchmarks.tradeoff_unit import Unit, differing
from lora_sku.errors import UserError
from lora_sku.storage import write_json


@dataclass(frozen=True)
class KnownUnits:
    """An earlier report's units, theta_o's scores that they stand beside, and who judged them."""

    report: Path
    base: Scores
    judge: Mapping[str, Any]
    units: tuple[Unit, ...]


class UnitStore:
    """The folder of a benchmark.

    Args:
        folder: Made if it is missing.
        settings: All that figures depend on; JSON values.

    Raises:
        UserError: if the folder was begun with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings: Mapping[str, Any] = json.loads(json.dumps(settings))  # as it is read again
        file = folder / "settings.json"
        if not file.exists():
            write_json(file, self.settings)
        elif changed := differing(self.settings, _read(file)):
            raise UserError(
                f"this folder was begun with other settings: {', '.join(changed)}",
                where=str(folder),
                remedy="Name another --out, or give the settings that it was begun with.",
            )

    def known(self, report: Path) -> KnownUnits:
        """The units of an earlier report.

        Args:
            report: Its raw figures.

        Raises:
            UserError: if it is no such report, or was made with other settings.
        """
        try:
            raw = _read(report)
            settings: dict[str, Any] = dict(raw["settings"])
            base = Scores.from_dict(raw["base"])
            judge: dict[str, Any] = dict(raw["judge"])
            units = tuple(Unit.from_dict(unit) for unit in raw["units"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                "this is not the raw figures of a trade-off report that tells its settings",
                where=str(report),
                remedy="Name the .json beside a report of this benchmark.",
            ) from error
        if changed := differing(self.settings, settings):
            raise UserError(
                f"this report was made with other settings: {', '.join(changed)}",
                where=str(report),
                remedy="Leave --known out, or give the settings that it was made with.",
            )
        return KnownUnits(report, base, judge, units)

    def take(self, known: KnownUnits, base: Scores, judge: Mapping[str, Any]) -> None:
        """Keep the units of an earlier report that are not here yet; without what they said.

        Args:
            known: The report's.
            base: theta_o's scores, here.
            judge: The judge's settings, here.

        Raises:
            UserError: if theta_o scored otherwise there, or another judge judged.
        """
        _refuse_another_base(known.base, base, known.report)
        if known.judge != judge:
            raise UserError(
                "another judge, or one with other borders, judged this report's answers",
                where=str(known.report),
                remedy="Leave --known out: a report does not hold the answers to judge again.",
            )
        for unit in known.units:
            if self.read(unit.method, unit.seed) is None:
                self.write(unit)

    def read(self, method: str, seed: int) -> Unit | None:
        """A finished unit, or None."""
        file = self._unit_file(method, seed)
        return Unit.from_dict(_read(file)) if file.exists() else None

    def finished(self) -> list[Unit]:
        """All units that are kept, by name."""
        files = sorted((self.folder / "units").glob("*.json"))
        return [Unit.from_dict(_read(file)) for file in files]

    def forget(self, method: str, seed: int) -> None:
        """Let a unit be computed again."""
        self._unit_file(method, seed).unlink(missing_ok=True)

    def write(self, unit: Unit) -> None:
        """Keep a finished unit."""
        write_json(self._unit_file(unit.method, unit.seed), unit.as_dict())

    def read_base(self) -> Answers | None:
        """theta_o's answers, or None."""
        file = self._base_file
        return Answers.from_dict(_read(file)["answers"]) if file.exists() else None

    def keep_base(self, rulers: Rulers, *, rejudge: bool) -> Scores:
        """theta_o's scores; they, its answers and who judged them are written.

        Args:
            rulers: Score and judge.
            rejudge: All kept answers are judged again.

        Raises:
            UserError: if theta_o scored otherwise here before, if another judge judged and is not
                to be replaced, or if a kept unit has no answers to judge again.
        """
        scores = rulers.base_scores()
        judge = json.loads(json.dumps(rulers.judge_settings))
        if self._base_file.exists():
            there = _read(self._base_file)
            _refuse_another_base(Scores.from_dict(there["scores"]), scores, self._base_file)
            if rejudge:
                self._judge_again(rulers)
            elif there.get("judge") != judge:
                raise UserError(
                    "another judge, or one with other borders, judged the answers that are kept"
                    " here",
                    where=str(self.folder),
                    remedy="Have them judged again by --rejudge, or name another --out.",
                )
        kept = {"answers": asdict(rulers.own), "scores": scores.as_dict(), "judge": judge}
        write_json(self._base_file, kept)
        return scores

    def _judge_again(self, rulers: Rulers) -> None:
        for unit in self.finished():
            if unit.scores is None:
                continue
            if unit.answers is None:
                raise UserError(
                    f"what {unit.method} {unit.seed} answered is not here, only its figures",
                    where=str(self.folder),
                    remedy=f"Delete {self._unit_file(unit.method, unit.seed)}, to have it computed"
                    " again.",
                )
            self.write(replace(unit, scores=rulers.judged_again(unit.scores, unit.answers)))

    def adapter(self, method: str, seed: int) -> Path:
        """Where a unit's adapter is kept, as it was chosen."""
        return self.folder / "adapters" / f"{method}-{seed}"

    def training(self, method: str, seed: int, learning_rate: float) -> Path:
        """Where an unfinished training keeps its state."""
        return self.folder / "training" / f"{method}-{seed}-{learning_rate:g}"

    @property
    def _base_file(self) -> Path:
        return self.folder / "base.json"

    def _unit_file(self, method: str, seed: int) -> Path:
        return self.folder / "units" / f"{method}-{seed}.json"


def read_settings(folder: Path) -> Mapping[str, Any]:
    """What a folder was begun with.

    Raises:
        UserError: if no benchmark keeps this folder.
    """
    file = folder / "settings.json"
    if not file.exists():
        raise UserError(
            "no trade-off benchmark keeps this folder",
            where=str(folder),
            remedy="Name the --out of benchmarks.tradeoff.",
        )
    settings: Mapping[str, Any] = _read(file)
    return settings


def _refuse_another_base(theirs: Scores, ours: Scores, where: Path) -> None:
    """Another processor rounds otherwise, which alone changes a few of 60 answers."""
    if _nlls(theirs) != _nlls(ours):
        raise UserError(
            "theta_o's scores are not this machine's: units of both cannot stand in one table",
            where=str(where),
            remedy="Go on where it was begun, or name another --out and leave --known out.",
        )


def _nlls(scores: Scores) -> tuple[float, float, float]:
    return scores.forget_nll, scores.normal_nll, scores.general_nll


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
