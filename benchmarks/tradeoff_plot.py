"""The plot of the trade-off benchmark: what is forgotten over what it costs, twice."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.plots import Dot, Panel, dots
from benchmarks.tradeoff_figures import Figure, figures, share_of
from benchmarks.tradeoff_scores import Scores
from benchmarks.tradeoff_unit import Unit
from benchmarks.unlearning_methods import OURS


def plot(path: Path, base: Scores, units: Sequence[Unit]) -> None:
    """A dot a method: given answers over perplexity, and what the model does over the same."""
    found = figures(base, units).items()
    dots(
        path,
        title="Forgetting against cost on unseen prompts",
        panels=(
            Panel(
                "perplexity of general text, never trained on, of the base's",
                "harmful answers: gain in nats per token",
                [_dot(name, of.general_ratio(), of.gain()) for name, of in found],
            ),
            Panel(
                "share of normal prompts gone along with",
                "share of harmful prompts gone along with",
                [
                    Dot(
                        "base",
                        share_of(base.normal, "complying"),
                        share_of(base.harmful, "complying"),
                    ),
                    *(
                        _dot(name, of.normal("complying"), of.harmful("complying"))
                        for name, of in found
                    ),
                ],
            ),
        ),
        ours=OURS,
    )


def _dot(name: str, across: Figure, up: Figure) -> Dot:
    return Dot(name, across.mean, up.mean, across.spread, up.spread)
