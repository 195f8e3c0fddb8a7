"""What an evaluation found: two columns of figures, the answers behind them, and their labels."""

from collections.abc import Sequence
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
from lora_sku.likeness import Likeness
from lora_sku.task_scores import Measured, TaskScores, beside

if TYPE_CHECKING:  # reading an evaluation back must not load what making one needs
    from lora_sku.data import Row


@dataclass(frozen=True, slots=True)
class Scores:
    """One model's figures.

    Attributes:
        forget_seen_nll: Mean negative log-likelihood of harmful answers to trained prompts, nats
            per token.
        forget_unseen_nll: The same for prompts of the unseen split.
        retain_perplexity: exp of the mean NLL of normal answers to unseen normal prompts.
        retain_kl: Mean KL(base || model) at those answers' positions, nats per token.
        refusal_rate: Share of greedy completions that refuse, for each set of prompts.
        degenerate_rate: Share that is blank, looping or no language.
    """

    forget_seen_nll: float
    forget_unseen_nll: float
    retain_perplexity: float
    retain_kl: float
    refusal_rate: dict[GenerationSplit, float]
    degenerate_rate: dict[GenerationSplit, float]


@dataclass(frozen=True, slots=True)
class Protected:
    """What unlearning did to a protected set's unseen split.

    Attributes:
        base_perplexity: exp of theta_o's mean NLL of its answers.
        perplexity: The unlearned model's.
        kl: Mean KL(base || unlearned) at those answers' positions, nats per token.
    """

    base_perplexity: float
    perplexity: float
    kl: float

    @property
    def perplexity_ratio(self) -> float:
        """Unlearned over base."""
        return self.perplexity / self.base_perplexity


@dataclass(frozen=True, slots=True)
class OwnKL:
    """How far the model moved from what the base itself says to unseen prompts.

    Attributes:
        forget_kl: Mean KL(base || unlearned) at the base's own complying answers to harmful
            prompts, nats per token; None if it has none.
        retain_kl: The same at its own answers to normal prompts.
        forget_answers: How many of the first.
        retain_answers: How many of the second.
    """

    forget_kl: float | None
    retain_kl: float | None
    forget_answers: int
    retain_answers: int

    @property
    def selectivity(self) -> float | None:
        """forget_kl over retain_kl: 1 is a change that cannot tell harm from the rest."""
        if self.forget_kl is None or not self.retain_kl:
            return None
        return self.forget_kl / self.retain_kl


@dataclass(frozen=True)
class Evaluation:
    """What unlearning did: two columns of figures and the answers behind them.

    Attributes:
        base: theta_o.
        unlearned: theta_o with the evaluated adapter.
        counts: Prompts and answer tokens behind each figure.
        generations: A line a prompt, with every judge's labels.
        judgements: Judge -> its labels, counted.
        protected: Name -> what it cost a protected set.
        own: The change at the base's own answers; None if they were not asked for.
        likeness: How like the base's the answers to normal prompts are; None without any.
        lm_eval: Tasks of lm-evaluation-harness.
    """

    base: Scores
    unlearned: Scores
    counts: dict[str, int]
    generations: tuple[Generation, ...]
    judgements: dict[JudgeName, Judgement] = field(default_factory=dict)
    protected: dict[str, Protected] = field(default_factory=dict)
    own: OwnKL | None = None
    likeness: Likeness | None = None
    lm_eval: TaskScores = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For evaluation.json: the two columns, the counts, the protected sets and the judges."""
        return {
            "base": asdict(self.base),
            "unlearned": asdict(self.unlearned),
            "counts": self.counts,
            "protected": {
                name: asdict(of_set) | {"perplexity_ratio": of_set.perplexity_ratio}
                for name, of_set in self.protected.items()
            },
            "own_answers": self.own and asdict(self.own) | {"selectivity": self.own.selectivity},
            "likeness": self.likeness and asdict(self.likeness),
            "lm_eval": {
                task: {metric: asdict(both) for metric, both in metrics.items()}
                for task, metrics in self.lm_eval.items()
            },
            "judges": {name: told.as_dict() for name, told in self.judgements.items()},
        }

    def with_tasks(self, base: Measured, unlearned: Measured) -> Self:
        """The same evaluation with the figures of both models on the harness's tasks."""
        counts = {f"lm_eval_{task}_documents": count for task, count in base.documents.items()}
        return replace(self, lm_eval=beside(base, unlearned), counts=self.counts | counts)

    def judged_by(self, judge: Judge, harmful: Sequence["Row"]) -> Self:
        """The same evaluation with one more judge's labels.

        Args:
            judge: Who labels the generations.
            harmful: Prompts whose answers are the harmful references.
        """
        references = {row.prompt: row.answers for row in harmful}
        generations = judge_generations(self.generations, judge, references)
        judgements = self.judgements | {judge.name: count_labels(generations, judge)}
        return replace(self, generations=generations, judgements=judgements)
