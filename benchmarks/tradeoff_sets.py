"""The normal sets of the trade-off benchmark, the same for every method."""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.tradeoff_data import TradeoffData
from lora_sku.data import Encoder, Row, Splits, same_prompt
from lora_sku.elicitation import make_elicitor, own_set, prompts_of
from lora_sku.model import AdaptedModel
from lora_sku.recipe import OWN_PROMPTS, DataSection, EvaluationSection


@dataclass(frozen=True)
class NormalSets:
    """What must not change.

    Attributes:
        spared: By name; the budget holds on each one's validation split.
        preserved: The normal rows that every method is trained on.
    """

    spared: Mapping[str, Splits]
    preserved: tuple[Row, ...]

    @property
    def trained(self) -> list[tuple[Row, ...]]:
        """What subspace, balance and projection take; general text has nothing for them."""
        return [rows.train for rows in self.spared.values() if rows.train]


def normal_sets(
    section: DataSection,
    evaluation: EvaluationSection,
    whole: TradeoffData,
    cut: TradeoffData,
    model: AdaptedModel,
    encoder: Encoder,
) -> NormalSets:
    """The retain set, the general text and, where the recipe has them, the base's own prompts.

    Args:
        section: Says whether there are own prompts, and whether they are preserved.
        evaluation: Rows at once, the judge's settings.
        whole: No own prompt is one of these.
        cut: What is scored of them.
        model: Draws; its adapter is off meanwhile.
        encoder: Tokenizes.
    """
    spared = {"retain": cut.normal, "general": cut.general}
    own = section.own_prompts
    if own is None:
        return NormalSets(spared, cut.normal.train)
    known = prompts_of(whole.forget) | prompts_of(whole.normal) | prompts_of(whole.general)
    known |= {same_prompt(fact.question) for fact in whole.facts}
    elicitor = make_elicitor(section, evaluation, model, encoder, whole.normal, lambda *_: None)
    drawn = own_set(known, section, elicitor, lambda _: None)
    preserved = (*cut.normal.train, *(drawn.train if own.preserve else ()))
    return NormalSets(spared | {OWN_PROMPTS: drawn}, preserved)


def reported(cut: TradeoffData, whole: TradeoffData) -> TradeoffData:
    """What is scored, with the whole of what is not reported on, for the judge's borders."""
    normal = Splits(whole.normal.train, whole.normal.validation, cut.normal.unseen)
    return TradeoffData(cut.forget, normal, cut.general, cut.facts)
