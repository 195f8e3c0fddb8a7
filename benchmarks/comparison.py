"""A planned peak beside a measured or published one."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Comparison:
    """A planned peak beside a known one, in GiB.

    Attributes:
        name: Which run.
        planned: With the framework's share, except for CUDA's context, which no allocator sees.
        tensors: Live tensors alone.
        known: Measured or published: what the process held, or what CUDA's allocator reserved.
        live: Live tensors as measured; None where nobody did.
        on_cuda: Whether a GPU was measured, not a process.
    """

    name: str
    planned: float
    tensors: float
    known: float
    live: float | None = None
    on_cuda: bool = False

    @property
    def error(self) -> float:
        """Of the plan, as a share of what is known."""
        return self.planned / self.known - 1

    @property
    def live_error(self) -> float | None:
        """Of the planned tensors, as a share of the measured ones."""
        return None if self.live is None else self.tensors / self.live - 1

    def row(self) -> tuple[str, ...]:
        """For a table: all that was planned."""
        return (self.name, f"{self.planned:.2f}", f"{self.known:.2f}", _percent(self.error))

    def row_with_tensors(self) -> tuple[str, ...]:
        """For a table: the tensors, and then all."""
        live = "" if self.live is None else f"{self.live:.2f}"
        tensors = (self.name, f"{self.tensors:.2f}", live, _percent(self.live_error))
        return (*tensors, *self.row()[1:])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.0f} %"
