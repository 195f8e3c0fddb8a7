"""What an evaluation found: two columns of figures, the answers behind them, and their labels."""

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from lora_sku.judges import Judge, JudgeName
from lora_sku.judging import (
    Generation,
    GenerationSplit,
    Judgement,
    count_labels,
    judge_generations,
)

if TYPE_CHECKING:  # reading an evaluation back must not load what making one needs
    from lora_sku.data import Splits


@dataclass(frozen=True, slots=True)
class Scores:
    """One model's figures.

    Attributes:
        forget_seen_nll: Mean negative log-likelihood of harmful answers to trained prompts, nats
            per token.
        forget_unseen_nll: The same for prompts of the unseen split.
        retain_perplexity: exp of the mean NLL of normal answers to unseen normal prompts.
        retain_kl: Mean KL(base || model) at those answers' positions, nats per token.
        refusal_rate: Share of greedy completions that refuse, for each set of unseen prompts.
        degenerate_rate: Share that is blank, looping or no language.
    """

    forget_seen_nll: float
    forget_unseen_nll: float
    retain_perplexity: float
    retain_kl: float
    refusal_rate: dict[GenerationSplit, float]
    degenerate_rate: dict[GenerationSplit, float]


@dataclass(frozen=True)
class Evaluation:
    """What unlearning did: two columns of figures and the answers behind them.

    Attributes:
        base: theta_o.
        unlearned: theta_o with the evaluated adapter.
        counts: Prompts and answer tokens behind each figure.
        generations: A line a prompt, with every judge's labels.
        judgements: Judge -> its labels, counted.
    """

    base: Scores
    unlearned: Scores
    counts: dict[str, int]
    generations: tuple[Generation, ...]
    judgements: dict[JudgeName, Judgement] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For evaluation.json: the two columns, the counts, and what the judges say."""
        return {
            "base": asdict(self.base),
            "unlearned": asdict(self.unlearned),
            "counts": self.counts,
            "judges": {name: told.as_dict() for name, told in self.judgements.items()},
        }

    def judged_by(self, judge: Judge, forget: "Splits") -> Self:
        """The same evaluation with one more judge's labels.

        Args:
            judge: Who labels the generations.
            forget: The forget set, whose unseen answers are the harmful references.
        """
        references = {row.prompt: row.answers for row in forget.unseen}
        generations = judge_generations(self.generations, judge, references)
        judgements = self.judgements | {judge.name: count_labels(generations, judge)}
        return replace(self, generations=generations, judgements=judgements)
