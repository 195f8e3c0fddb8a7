"""The report of the trade-off benchmark: forgetting and cost of every method, and the targets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.report import Report, Table, targets_table
from benchmarks.tradeoff_bootstrap import DRAWS, Interval, compliance, mean_fall, times_best
from benchmarks.tradeoff_figures import MethodFigures, figures, share_of
from benchmarks.tradeoff_scores import Scores
from benchmarks.tradeoff_targets import targets
from benchmarks.tradeoff_unit import Unit
from benchmarks.unlearning_methods import OURS, RIVALS, UnlearningMethod
from lora_sku.metrics import wilson_interval
from lora_sku.sweep import Budget

PROMPTS = (
    "Forgotten: PKU-SafeRLHF's train prompts; its test prompts are the unseen harmful ones."
    " Retain: TruthfulQA and the demo's normal prompts, split by prompt. General: Python's"
    " language reference, never trained on. No prompt is in two of them, and no figure was chosen"
    " by what is reported on. Methods were made, and the judge's border was found wanting, while"
    " earlier reports on the same prompts were known."
)

# Column -> the share of the answers that it tells of.
_SHARES = {"complies": "complying", "refuses": "refusal", "degenerate": "degenerate"}


def make_report(
    base: Scores,
    units: Sequence[Unit],
    methods: Mapping[str, UnlearningMethod],
    kept: Mapping[str, float] | None,
    *,
    budget: Budget,
    judge: Mapping[str, Any],
    settings: Mapping[str, Any],
    command: str,
    name: str = "tradeoff",
    title: str = "Forgetting against cost: ways of unlearning on one quantized base",
    prompts: str = PROMPTS,
) -> Report:
    """Tables and targets.

    Args:
        base: theta_o's scores.
        units: In the order of the methods.
        methods: What they are.
        kept: Quantization -> share of the effect kept there; None if it was not measured.
        budget: Of each normal set, on validation.
        judge: What its verdicts rest on.
        settings: All that the units depend on.
        command: As it was typed.
        name: Of the report's files.
        title: Its headline.
        prompts: What was trained on, chosen by and reported on.
    """
    found = figures(base, units)
    return Report(
        name=name,
        title=title,
        command=command,
        machine=describe_machine(),
        rulers=(prompts, *_rulers(units, methods, budget)),
        tables=(
            targets_table(targets(base, found, kept)),
            _forgetting(base, found),
            _cost(base, found),
            *_certainty(found),
            _training(units),
            *([] if kept is None else [_transfer(kept)]),
        ),
        raw={
            "base": base.as_dict(),
            "judge": dict(judge),
            "settings": dict(settings),
            "units": [asdict(unit.without_answers()) for unit in units],
            "transfer": kept,
        },
    )


def _forgetting(base: Scores, found: Mapping[str, MethodFigures]) -> Table:
    columns = ("", "NLL gain", "selectivity", *_SHARES)
    rows = [("base", "0", "", *_base_shares(base, "harmful"))]
    rows += [
        (
            name,
            of.gain().told(),
            of.selectivity().told(),
            *_shares(of, "harmful"),
        )
        for name, of in found.items()
    ]
    return Table(
        "Forgetting, unseen harmful prompts",
        columns,
        rows,
        "NLL gain: of the given harmful answers, nats per token. Selectivity: mean KL(base"
        " || model) on the base's own answers to harmful prompts over that to normal ones. Shares"
        " of greedy answers in percent, with Wilson's 95 % interval over prompts.",
    )


def _cost(base: Scores, found: Mapping[str, MethodFigures]) -> Table:
    columns = ("", "retain perplexity", "general perplexity", "KL", "facts", *_SHARES)
    rows = [("base", "1", "1", "0", str(base.facts), *_base_shares(base, "normal"))]
    rows += [
        (
            name,
            of.normal_ratio().told(3),
            of.general_ratio().told(3),
            of.own_normal_kl().told(3),
            of.facts().told(1),
            *_shares(of, "normal"),
        )
        for name, of in found.items()
    ]
    return Table(
        "Cost, unseen normal prompts",
        columns,
        rows,
        "Perplexities as multiples of the base's; KL(base || model) on the base's own answers, nats"
        " per token; shares as above.",
    )


def _certainty(found: Mapping[str, MethodFigures]) -> list[Table]:
    """No table if no unit says which prompts were complied with."""
    rows, falls = [], {}
    for name, of in found.items():
        harmful, normal = compliance(of, "harmful"), compliance(of, "normal")
        if harmful is None or normal is None:
            continue
        falls[name] = harmful.fall()
        points = _with_interval(mean_fall(falls[name]), 0, 100)
        lefts = (_with_interval(of_kind.left(), 2) for of_kind in (harmful, normal))
        rows.append((name, points, *lefts, ""))
    rivals = {name: fall for name, fall in falls.items() if name in RIVALS}
    if OURS in falls and rivals:
        times, share = times_best(falls[OURS], rivals)
        twice = f"{100 * share:.0f} %"
        rows.append((f"{OURS}, times the best rival's", _with_interval(times, 1), "", "", twice))
    if not rows:
        return []
    columns = ("", "fall", "harmful, of the base's", "normal, of the base's", "twice the best's")
    told = (
        "Fall: points of compliance with unseen harmful prompts below the base's, mean over seeds;"
        " beside it compliance with harmful and with normal prompts as a share of the base's. In"
        f" brackets what holds 95 % of {DRAWS} draws of the prompts, the same for all methods; the"
        " best rival is that of each draw, and the last column has the draws in which ours falls at"
        " least twice as far."
    )
    return [Table("How sure compliance is", columns, rows, told)]


def _with_interval(it: Interval, digits: int, unit: float = 1) -> str:
    value, low, high = (f"{unit * part:.{digits}f}" for part in (it.value, it.low, it.high))
    return f"{value} ({low} to {high})"


def _training(units: Sequence[Unit]) -> Table:
    columns = (
        "",
        "seed",
        "learning rate",
        "strength",
        "mu",
        "training s",
        "answer tokens",
        "all s",
    )
    rows = []
    for unit in units:
        trial = unit.trial
        rows.append(
            (
                unit.method,
                str(unit.seed),
                f"{trial.learning_rate:g}",
                f"none: {trial.failed}" if trial.strength is None else f"{trial.strength:.3g}",
                "" if trial.mu is None else f"{trial.mu:g}",
                f"{trial.train_seconds:.0f}",
                str(trial.answer_tokens),
                f"{unit.seconds:.0f}",
            )
        )
    return Table(
        "What was chosen on validation",
        columns,
        rows,
        "Strength: multiple of the method's own delta. A method without one has no scores above.",
    )


def _transfer(kept: Mapping[str, float]) -> Table:
    rows = [(name, f"{100 * share:.0f} %") for name, share in kept.items()]
    return Table("Our adapter on other quantizations", ("", "NLL gain kept"), rows)


def _shares(of: MethodFigures, side: str) -> list[str]:
    shares = of.harmful if side == "harmful" else of.normal
    return [_told(shares(share).mean, of.interval(side, share)) for share in _SHARES.values()]


def _base_shares(base: Scores, side: str) -> list[str]:
    counts = base.harmful if side == "harmful" else base.normal
    return [
        _told(
            share_of(counts, share),
            wilson_interval(round(share_of(counts, share) * counts.total), counts.total),
        )
        for share in _SHARES.values()
    ]


def _told(share: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * share:.0f} ({100 * low:.0f} to {100 * high:.0f})"


def _rulers(
    units: Sequence[Unit], methods: Mapping[str, UnlearningMethod], budget: Budget
) -> tuple[str, ...]:
    used = dict.fromkeys(unit.method for unit in units)
    kl = "" if budget.kl is None else f", and a KL of at most {budget.kl:g} nats per token,"
    return (
        "Every trained method: the same base, adapted layers, optimizer, learning rate, steps and"
        " answers of a step (the passes of balance come on top and are not in the training"
        " seconds). A natural step is one, and reads more answer tokens; its seconds are of all"
        " its passes. Each one's strength"
        " forgets most on validation with perplexities of at most"
        f" {budget.perplexity_ratio:g} x the base's{kl} on each normal set.",
        "± is the standard deviation over seeds, which share the data's cut.",
        "Rivals: " + (", ".join(name for name in RIVALS if name in used) or "none ran") + ".",
        *[f"{name}: {methods[name].meaning}." for name in used],
    )
