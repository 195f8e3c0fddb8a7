"""Sets whose answers are the base's own: what it says is what it should unlearn, or keep saying.

A given harmful answer can become unlikely while the model goes on saying something else as harmful.
Its own completions are what it does. Of those to harmful prompts only the complying ones are kept,
by the judge that asks the base itself; of those to normal prompts all but degenerate text. A prompt
of the forget set is never asked for normal answers: they would be the very same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from lora_sku.data import DataSets, Encoder, Row, Splits, same_prompt, split_by_prompt
from lora_sku.errors import DataError
from lora_sku.judges import Case, Judge, classify
from lora_sku.judges.base_likelihood import BaseLikelihood
from lora_sku.judges.compliance import ComplianceJudge
from lora_sku.model import AdaptedModel
from lora_sku.own_answers import OwnAnswers
from lora_sku.own_prompts import own_prompts
from lora_sku.recipe import (
    OWN_PROMPTS,
    DataSection,
    EvaluationSection,
    OwnAnswersSection,
    SourceSection,
)
from lora_sku.storage import cache_folder

OnTold = Callable[[str], None]


@dataclass(frozen=True)
class Elicitor:
    """Finds the kept own answers of rows.

    Attributes:
        answers: Asks theta_o.
        prompts: Draws theta_o's own prompts.
        judge: Says which answers to harmful prompts comply; asked for only where there are some.
        prefix: Put in the model's mouth on harmful prompts.
    """

    answers: OwnAnswers
    prompts: Callable[[], list[str]]
    judge: Callable[[], Judge]
    prefix: str | None

    def harmful(self, rows: Sequence[Row]) -> list[tuple[str, ...]]:
        """Of each harmful prompt, what complies."""
        said = self.answers.to([row.prompt for row in rows], prefix=self.prefix)
        pairs = [
            (row, text) for row, texts in zip(rows, said, strict=True) for text in texts if text
        ]
        cases = [Case(row.prompt, text, harmful_prompt=True) for row, text in pairs]
        verdicts = self.judge().verdicts(cases) if cases else []
        kept = {
            (row.prompt, text)
            for (row, text), verdict in zip(pairs, verdicts, strict=True)
            if verdict.complies
        }
        return [
            tuple(text for text in texts if (row.prompt, text) in kept)
            for row, texts in zip(rows, said, strict=True)
        ]

    def normal(self, rows: Sequence[Row]) -> list[tuple[str, ...]]:
        """Of each normal prompt, what is no degenerate text."""
        said = self.answers.to([row.prompt for row in rows], prefix=None)
        return [tuple(text for text in texts if classify(text) != "degenerate") for texts in said]


def make_elicitor(
    data: DataSection,
    settings: EvaluationSection,
    model: AdaptedModel,
    encoder: Encoder,
    retain: Splits,
    on_progress: Callable[[int, int], None],
) -> Elicitor:
    """What asks this model's base as the recipe says.

    Args:
        data: How to draw.
        settings: The judge's, and completions at once.
        model: The base with an adapter, which is off meanwhile.
        encoder: Tokenizes.
        retain: The judge's borders are set on it.
        on_progress: Called with (prompts done, all that had to be asked).
    """
    rows = settings.per_device_eval_batch_size

    def drawing(section: OwnAnswersSection) -> OwnAnswers:
        cache = cache_folder() / "own-answers"
        return OwnAnswers(model, encoder, section, data.seed, rows, cache, on_progress)

    def prompts() -> list[str]:
        section = data.own_prompts
        assert section is not None, "asked for only where the recipe does"
        sampling = section.model_dump(exclude={"count", "preserve"})
        how = OwnAnswersSection(per_prompt=section.count, **sampling)
        return own_prompts(drawing(how), encoder)

    @cache
    def judge() -> Judge:
        return ComplianceJudge.calibrated(
            BaseLikelihood(model, encoder, batch_size=rows),
            retain,
            settings.compliance,
            max_new_tokens=data.own_answers.max_new_tokens,
        )

    return Elicitor(drawing(data.own_answers), prompts, judge, data.own_answers.prefix)


def with_own_answers(
    data: DataSets, section: DataSection, elicitor: Elicitor, on_told: OnTold
) -> DataSets:
    """The sets with the answers that their sections ask for, in the train and validation splits.

    The unseen splits, and with them the evaluation's figures, keep the given answers.

    Args:
        data: With the given answers.
        section: Says whose answers count in which set.
        elicitor: Finds the base's.
        on_told: Told what was kept and left out, set by set.

    Raises:
        DataError: if a split has no prompt left.
    """
    forgotten = prompts_of(data.forget)
    forget = _own_splits(
        data.forget, section.forget, "forget", elicitor.harmful, on_told, without=frozenset()
    )
    sources = {"retain": section.retain, **section.protected}
    normal = {
        name: _own_splits(splits, sources[name], name, elicitor.normal, on_told, without=forgotten)
        for name, splits in data.normal.items()
    }
    if section.own_prompts is not None:
        known = frozenset[str]().union(*map(prompts_of, (data.forget, *data.normal.values())))
        normal[OWN_PROMPTS] = own_set(known, section, elicitor, on_told)
    return replace(data, forget=forget, retain=normal.pop("retain"), protect=normal)


def preserved_rows(data: DataSets, section: DataSection) -> tuple[Row, ...]:
    """Normal prompts to train on: every normal set's, own prompts only if they may be.

    Args:
        data: As `with_own_answers` gave it.
        section: The recipe's.
    """
    own = section.own_prompts
    spared = {OWN_PROMPTS} if own is not None and not own.preserve else set()
    sets = [splits.train for name, splits in data.normal.items() if name not in spared]
    return tuple(row for rows in sets for row in rows)


def own_set(
    known: frozenset[str], section: DataSection, elicitor: Elicitor, on_told: OnTold
) -> Splits:
    """Drawn prompts with the base's answers, split like the other sets.

    Args:
        known: Prompts of all other sets, as `prompts_of` gives them; a drawn one of them goes.
        section: How to split.
        elicitor: Draws and answers.
        on_told: Told how many there are.

    Raises:
        DataError: if they are too few to split.
    """
    drawn = elicitor.prompts()
    asked = [Row(prompt, ()) for prompt in drawn if same_prompt(prompt) not in known]
    rows = list(_rows(asked, elicitor.normal(asked)))
    on_told(f"Own prompts: {len(rows)} of {len(drawn)} different ones kept, with own answers.")
    return split_by_prompt(
        rows,
        validation_fraction=section.validation_fraction,
        unseen_fraction=section.unseen_fraction,
        seed=section.seed,
    )


def unseen_own_answers(
    data: DataSets, elicitor: Elicitor, most: int
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Own answers to unseen harmful and normal prompts, for the evaluation; prompts without go.

    Args:
        data: The unseen splits of the forget and the retain set are asked.
        elicitor: Finds the answers.
        most: Prompts of each set.
    """
    forgotten = prompts_of(data.forget)
    normal = [row for row in data.retain.unseen if same_prompt(row.prompt) not in forgotten]
    harmful = data.forget.unseen[:most]
    return (
        tuple(_rows(harmful, elicitor.harmful(harmful))),
        tuple(_rows(normal[:most], elicitor.normal(normal[:most]))),
    )


def prompts_of(splits: Splits) -> frozenset[str]:
    """Every prompt in every split, case and white space apart."""
    return frozenset(same_prompt(row.prompt) for rows in splits.named().values() for row in rows)


def _own_splits(
    splits: Splits,
    source: SourceSection,
    name: str,
    ask: Callable[[Sequence[Row]], list[tuple[str, ...]]],
    on_told: OnTold,
    *,
    without: frozenset[str],
) -> Splits:
    if source.answers == "given":
        return splits
    made: dict[str, tuple[Row, ...]] = {}
    for split, rows in (("train", splits.train), ("validation", splits.validation)):
        asked = [row for row in rows if same_prompt(row.prompt) not in without]
        own = {row.prompt: row.answers for row in _rows(asked, ask(asked))}
        made[split] = tuple(_chosen(rows, own, keep_given=source.answers == "both"))
        fate = "keep the given ones" if source.answers == "both" else "are left out"
        on_told(
            f"Own answers, {name} set, {split} split: {sum(map(len, own.values()))} kept for"
            f" {len(own)} of {len(rows)} prompts; the other {len(rows) - len(own)} {fate}."
        )
        if rows and not made[split]:
            raise DataError(
                f"none of the base's own answers to the {split} split of the {name} set was kept",
                where="data.own_answers",
                remedy="Raise per_prompt or max_new_tokens, set a prefix, or set answers: both.",
            )
    return replace(splits, train=made["train"], validation=made["validation"])


def _chosen(
    rows: Sequence[Row], own: Mapping[str, tuple[str, ...]], *, keep_given: bool
) -> Iterable[Row]:
    for row in rows:
        given = row.answers if keep_given else ()
        answers = tuple(dict.fromkeys((*given, *own.get(row.prompt, ()))))
        if answers:
            yield Row(row.prompt, answers)


def _rows(rows: Sequence[Row], answers: Sequence[tuple[str, ...]]) -> Iterable[Row]:
    """The prompts that have an answer, with it."""
    for row, own in zip(rows, answers, strict=True):
        if own:
            yield Row(row.prompt, own)
