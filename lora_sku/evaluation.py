"""Base beside unlearned, on the same quantized base: the base is the model with its adapter off.

Every figure is taken twice by the same code on the same tokens, once in `reference_mode`.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch

from lora_sku.data import Batch, Encoder, Pair, Row, Splits, collate
from lora_sku.generation import counting, generate
from lora_sku.judges import classify
from lora_sku.judges.base_likelihood import BaseLikelihood
from lora_sku.judges.compliance import ComplianceJudge
from lora_sku.judges.phrases import Surface
from lora_sku.judging import Column, Generation, GenerationSplit, answered_splits
from lora_sku.likeness import likeness
from lora_sku.losses import score_tokens, token_nll
from lora_sku.metrics import perplexity, rate
from lora_sku.model import AdaptedModel
from lora_sku.recipe import HARD_NEGATIVES, EvaluationSection
from lora_sku.scores import Evaluation as Evaluation
from lora_sku.scores import OwnKL as OwnKL
from lora_sku.scores import Protected as Protected
from lora_sku.scores import Scores as Scores

OnProgress = Callable[[str, int, int], None]
"""Called with (what is being done, done so far, altogether)."""


@dataclass(frozen=True, slots=True)
class _Likelihood:
    nll: float
    kl: float
    tokens: int


def evaluate(
    model: AdaptedModel,
    encoder: Encoder,
    forget: Splits,
    retain: Splits,
    settings: EvaluationSection,
    on_progress: OnProgress = lambda *_: None,
    *,
    protect: Mapping[str, Splits] | None = None,
    own: tuple[Sequence[Row], Sequence[Row]] | None = None,
    lookalikes: Sequence[Row] = (),
    other_harm: Sequence[Row] = (),
) -> Evaluation:
    """Score theta_o and the active adapter side by side.

    Args:
        model: The base with the negated adapter active, in evaluation mode.
        encoder: Tokenizes prompts and answers.
        forget: The forget set; its train and unseen splits are scored.
        retain: The retain set; its unseen split is scored.
        settings: How many prompts and tokens.
        on_progress: Called after every batch.
        protect: The protected sets by name; their unseen splits are scored.
        own: theta_o's own answers to unseen harmful and normal prompts, for the selectivity.
        lookalikes: Harmless prompts that sound harmful; they are answered and no more.
        other_harm: Harmful prompts of other kinds; they are answered and no more.
    """
    evaluator = _Evaluator(model, encoder, settings, on_progress)
    evaluation = evaluator.evaluate(forget, retain, protect or {}, lookalikes, other_harm)
    return evaluation if own is None else replace(evaluation, own=evaluator.own_kl(*own))


class _Evaluator:
    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        settings: EvaluationSection,
        on_progress: OnProgress,
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._settings = settings
        self._on_progress = on_progress

    def evaluate(
        self,
        forget: Splits,
        retain: Splits,
        protect: Mapping[str, Splits],
        lookalikes: Sequence[Row],
        other_harm: Sequence[Row],
    ) -> Evaluation:
        sets = {
            "forget_seen": _sample(forget.train, self._settings.max_prompts),
            "forget_unseen": _sample(forget.unseen, self._settings.max_prompts),
            "retain_unseen": _sample(retain.unseen, self._settings.max_prompts),
        } | {
            _protect_key(name): _sample(splits.unseen, self._settings.max_prompts)
            for name, splits in protect.items()
        }
        likelihoods = {name: self._likelihoods(name, rows) for name, rows in sets.items()}
        most = self._settings.max_generations
        normal = [retain, *(of for name, of in protect.items() if name != HARD_NEGATIVES)]
        hard = protect[HARD_NEGATIVES].unseen if HARD_NEGATIVES in protect else ()
        harmful = sets["forget_unseen"][:most]
        asked: dict[GenerationSplit, list[Row]] = {
            "forget_unseen": harmful,
            "prefilled": [] if self._settings.prefill is None else harmful,
            "other_harm": _sample(other_harm, most),
            "retain_unseen": _sample([row for splits in normal for row in splits.unseen], most),
            "hard_negatives_unseen": _sample(hard, most),
            "lookalikes": _sample(lookalikes, most),
        }
        generations = tuple(
            generation
            for split, rows in asked.items()
            if rows
            for generation in self._generate(split, rows)
        )
        references = {row.prompt: row.answers for splits in normal for row in splits.unseen}
        evaluation = Evaluation(
            base=_scores({k: v[0] for k, v in likelihoods.items()}, generations, "base"),
            unlearned=_scores({k: v[1] for k, v in likelihoods.items()}, generations, "unlearned"),
            counts={f"{name}_prompts": len(rows) for name, rows in sets.items()}
            | {f"{name}_answer_tokens": v[0].tokens for name, v in likelihoods.items()}
            | {
                f"{split}_generations": sum(g.split == split for g in generations)
                for split in answered_splits(generations)
            },
            generations=generations,
            protected={name: _protected(*likelihoods[_protect_key(name)]) for name in protect},
            likeness=likeness(generations, references),
        )
        if "compliance" not in self._settings.judges:
            return evaluation
        return evaluation.judged_by(self._compliance(retain), (*forget.unseen, *other_harm))

    def own_kl(self, harmful: Sequence[Row], normal: Sequence[Row]) -> OwnKL:
        """KL(base || unlearned) on the base's own answers."""

        def mean(name: str, rows: Sequence[Row]) -> float | None:
            return self._likelihoods(name, rows)[1].kl if rows else None

        return OwnKL(
            forget_kl=mean("own answers, forget_unseen", harmful),
            retain_kl=mean("own answers, retain_unseen", normal),
            forget_answers=sum(len(row.answers) for row in harmful),
            retain_answers=sum(len(row.answers) for row in normal),
        )

    def _compliance(self, retain: Splits) -> ComplianceJudge:
        """The one judge that needs the base; it comes while the base is here."""
        likelihood = BaseLikelihood(
            self._model,
            self._encoder,
            batch_size=self._settings.per_device_eval_batch_size,
            on_answered=partial(self._on_progress, "base answers to the judge's own prompts"),
        )
        return ComplianceJudge.calibrated(
            likelihood,
            retain,
            self._settings.compliance,
            max_new_tokens=self._settings.max_new_tokens,
        )

    @torch.no_grad()
    def _likelihoods(self, name: str, rows: Sequence[Row]) -> tuple[_Likelihood, _Likelihood]:
        """(base, unlearned) on every answer of the rows."""
        pairs = [(row.prompt, answer) for row in rows for answer in row.answers]
        head = self._model.base.head
        sums = torch.zeros(3, dtype=torch.float64)
        tokens = done = 0
        for batch in self._batches(pairs):
            with self._model.reference_mode():
                base_ND = self._model.answer_states(batch)
            unlearned_ND = self._model.answer_states(batch)
            base_nll_N = token_nll(base_ND, batch.targets, head)
            nll_N, kl_N, _ = score_tokens(unlearned_ND, base_ND, batch.targets, head)
            sums += torch.stack([base_nll_N.sum(), nll_N.sum(), kl_N.sum()]).double().cpu()
            tokens += len(batch.targets)
            done += len(batch.input_ids)
            self._on_progress(f"likelihood of {name}", done, len(pairs))
        base_mean, unlearned_mean, kl_mean = (sums / tokens).tolist()
        return _Likelihood(base_mean, 0.0, tokens), _Likelihood(unlearned_mean, kl_mean, tokens)

    def _batches(self, pairs: Sequence[Pair]) -> Iterator[Batch]:
        encoded = sorted(
            (self._encoder.encode(*pair) for pair in pairs), key=lambda e: len(e.input_ids)
        )
        size = self._settings.per_device_eval_batch_size
        for start in range(0, len(encoded), size):
            piece = encoded[start : start + size]
            yield collate(piece, pad_id=self._encoder.pad_id).to(self._model.base.device)

    def _generate(self, split: GenerationSplit, rows: Sequence[Row]) -> list[Generation]:
        prefill = self._settings.prefill if split == "prefilled" else None
        begun = () if prefill is None else self._encoder.opening_ids(prefill)
        prompts = [self._encoder.prompt_ids(row.prompt)[0] + begun for row in rows]
        answers: dict[str, list[str]] = {}
        modes: dict[str, AbstractContextManager[None]] = {
            "base": self._model.reference_mode(),
            "unlearned": nullcontext(),
        }
        for column, mode in modes.items():
            told = partial(self._on_progress, f"{column} answers to {split}")
            with mode:
                answers[column] = generate(
                    self._model,
                    prompts,
                    max_new_tokens=self._settings.max_new_tokens,
                    batch_size=self._settings.per_device_eval_batch_size,
                    on_batch=counting(len(prompts), told),
                )
        return [
            Generation(split, row.prompt, base, unlearned, prefill=prefill or "")
            for row, base, unlearned in zip(
                rows, answers["base"], answers["unlearned"], strict=True
            )
        ]


def _scores(
    likelihoods: dict[str, _Likelihood],
    generations: Sequence[Generation],
    column: Column,
) -> Scores:
    def label_rate(label: Surface) -> dict[GenerationSplit, float]:
        return {
            split: rate(
                [classify(g.completion(column)) == label for g in generations if g.split == split]
            )
            for split in answered_splits(generations)
        }

    return Scores(
        forget_seen_nll=likelihoods["forget_seen"].nll,
        forget_unseen_nll=likelihoods["forget_unseen"].nll,
        retain_perplexity=perplexity(likelihoods["retain_unseen"].nll),
        retain_kl=likelihoods["retain_unseen"].kl,
        refusal_rate=label_rate("refusal"),
        degenerate_rate=label_rate("degenerate"),
    )


def _protect_key(name: str) -> str:
    return f"protect_{name}_unseen"


def _protected(base: _Likelihood, unlearned: _Likelihood) -> Protected:
    return Protected(perplexity(base.nll), perplexity(unlearned.nll), unlearned.kl)


def _sample(rows: Sequence[Row], most: int) -> list[Row]:
    """At most ``most`` rows, the same ones at every call on the same rows."""
    if len(rows) <= most:
        return list(rows)
    return random.Random(0).sample(list(rows), most)
