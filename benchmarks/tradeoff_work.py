"""Who computes which unit: one process, or some that share the folder.

Each takes the next unit that no other one holds. What all of them begin with, what the base says,
the first one has left on the disk before the others start.
"""

import fcntl
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.command import run_told
from lora_sku.errors import UserError
from lora_sku.quiet import quiet_models
from lora_sku.recipe import Recipe

if TYPE_CHECKING:
    from benchmarks.tradeoff_bench import Bench, Sizes
    from benchmarks.tradeoff_unit import Unit
    from benchmarks.unlearning_methods import UnlearningMethod

Wanted = Sequence[tuple[str, int]]
"""(method, seed) of units, in the order of the report."""


@dataclass(frozen=True)
class Order:
    """What a benchmark is made of; another process can be given it.

    Attributes:
        recipe: As resolved.
        data: Folder of the data.
        sizes: How much is computed.
        out: Folder that keeps the units.
        known: Earlier reports' raw figures.
    """

    recipe: Recipe
    data: Path
    sizes: "Sizes"
    out: Path
    known: tuple[Path, ...]

    def bench(self, *, rejudge: bool = False) -> "Bench":
        """Load all that units share; ``rejudge`` judges kept answers again."""
        from benchmarks.tradeoff_bench import Bench

        return Bench(self.recipe, self.data, self.sizes, self.out, self.known, rejudge=rejudge)

    def methods(self) -> dict[str, "UnlearningMethod"]:
        """All of them, with the recipe's weights."""
        from benchmarks.unlearning_methods import unlearning_methods

        sizes = self.sizes
        return unlearning_methods(
            self.recipe.losses, prompts=sizes.prompts, responses=sizes.responses
        )


def share_cores(jobs: int) -> None:
    """Give each of some processes its share of threads. Call it before torch is loaded."""
    if jobs > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // jobs)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def wanted_units(methods: Mapping[str, "UnlearningMethod"], first_seed: int, seeds: int) -> Wanted:
    """Of every method as many seeds as it runs with."""
    return [
        (name, first_seed + number)
        for name, method in methods.items()
        for number in range(seeds if method.every_seed else 1)
    ]


def finished_units(bench: "Bench", wanted: Wanted) -> Wanted:
    """Those that are kept.

    Raises:
        UserError: if there is none.
    """
    finished = [unit for unit in wanted if bench.store.read(*unit) is not None]
    if not finished:
        raise UserError(
            "no unit is finished here",
            where=str(bench.store.folder),
            remedy="Leave --finished out, or name the folder that has some by --out.",
        )
    return finished


def compute(order: Order, bench: "Bench", wanted: Wanted, *, jobs: int) -> list["Unit"]:
    """All wanted units in their order; those that are kept are read.

    Args:
        order: For the helpers.
        bench: This process's own.
        wanted: Units.
        jobs: Processes, this one among them.

    Raises:
        UserError: if one was computed by another definition of its method.
    """
    methods = order.methods()
    for name, seed in wanted:
        if kept := bench.store.read(name, seed):
            kept.refuse_other(methods[name].definition(), bench.store.folder)
    missing = _missing(bench, wanted)
    click.echo(f"{missing} of {len(wanted)} units to compute", err=True)
    with _helpers(min(jobs, missing) - 1, order, wanted):
        _compute_free(order, bench, wanted, wait=False)
        _compute_free(order, bench, wanted, wait=True)
    return [_kept(bench, *unit) for unit in wanted]


def _compute_free(order: Order, bench: "Bench", wanted: Wanted, *, wait: bool) -> None:
    """The units that no other process holds; with ``wait`` also what it leaves unfinished."""
    methods = order.methods()
    for name, seed in wanted:
        with claim(bench.store.folder, name, seed, wait=wait) as is_ours:
            if is_ours and bench.store.read(name, seed) is None:
                unit = bench.run(name, methods[name], seed)
                click.echo(f"{_told(unit)}; {_missing(bench, wanted)} left", err=True)


@contextmanager
def claim(folder: Path, method: str, seed: int, *, wait: bool = False) -> Iterator[bool]:
    """Whether this process may compute a unit: for as long as the block runs no other one may.

    Args:
        folder: Of the benchmark.
        method: Of the unit.
        seed: Of the unit.
        wait: For another process that computes it. One that is killed holds nothing.
    """
    file = folder / "claims" / f"{method}-{seed}"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def _helpers(count: int, order: Order, wanted: Wanted) -> Iterator[None]:
    spawn = multiprocessing.get_context("spawn")
    helpers = [spawn.Process(target=_help, args=(order, wanted), daemon=True) for _ in range(count)]
    for helper in helpers:
        helper.start()
    yield
    for helper in helpers:
        helper.join()


def _help(order: Order, wanted: Wanted) -> None:
    def helped() -> None:
        quiet_models()
        _compute_free(order, order.bench(), wanted, wait=False)

    run_told(helped)


def _missing(bench: "Bench", wanted: Wanted) -> int:
    return sum(bench.store.read(*unit) is None for unit in wanted)


def _kept(bench: "Bench", method: str, seed: int) -> "Unit":
    unit = bench.store.read(method, seed)
    assert unit is not None, "whoever held it is done or gone"
    return unit


def _told(unit: "Unit") -> str:
    trial = unit.trial
    found = f"strength {trial.strength:.3g}" if trial.strength is not None else str(trial.failed)
    return f"{unit.method} {unit.seed}: {found}, {unit.seconds:.0f} s"
