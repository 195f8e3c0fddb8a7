"""Does an adapter do on other quantizations of its base what it does on its own?"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.tradeoff_bench import Bench
from benchmarks.tradeoff_figures import figures
from benchmarks.tradeoff_unit import Unit
from benchmarks.unlearning_methods import OURS
from lora_sku.errors import UserError
from lora_sku.likelihood import AnswerScorer
from lora_sku.model import AdaptedModel, load_base
from lora_sku.recipe import Quantization

OTHERS: tuple[Quantization, ...] = ("int8", "none")


def transfer(bench: Bench, units: Sequence[Unit]) -> dict[str, float]:
    """The NLL gain on unseen harmful answers there, over that on the bench's own base.

    Args:
        bench: Its base was trained on; the others are loaded one after another beside it.
        units: Of every method; of ours, if there are any, the one whose choice forgets most on
            validation is tried.

    Returns:
        Quantization -> share of the gain kept; empty if no unit has an adapter.

    Raises:
        UserError: if the best unit is known from a report alone.
    """
    best = best_unit([unit for unit in units if unit.method == OURS]) or best_unit(units)
    if best is None:
        return {}
    own = figures(bench.base_scores, [best])[best.method].gain().mean
    adapter = bench.store.adapter(best.method, best.seed)
    if not adapter.exists():
        raise UserError(
            f"the best adapter ({best.method}, seed {best.seed}) is not here, only its figures",
            where=str(adapter),
            remedy="Leave --transfer out, or --known, so that it is made again.",
        )
    return {name: _gain(bench, name, adapter) / own for name in OTHERS}


def best_unit(units: Sequence[Unit]) -> Unit | None:
    """The unit whose choice forgets most on validation; nothing reported on is looked at."""
    scored = [unit for unit in units if unit.trial.validation_nll is not None]
    return max(scored, key=lambda unit: unit.trial.validation_nll or 0.0, default=None)


def _gain(bench: Bench, quantization: Quantization, adapter: Path) -> float:
    section = bench.recipe.base_model.model_copy(update={"quantization": quantization})
    model = AdaptedModel.with_adapter_from(load_base(section), adapter)
    model.peft_model.eval()
    size = bench.recipe.evaluation.per_device_eval_batch_size
    scorer = AnswerScorer(model, bench.encoder, bench.data.forget.unseen, pairs_at_once=size)
    return scorer.score().nll - scorer.base_nll
