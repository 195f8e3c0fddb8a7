"""What a person sees."""

import re
from dataclasses import replace

import pytest

from lora_sku import console
from lora_sku.acquisition import StepRecord
from lora_sku.budget import Budget, Cost
from lora_sku.console import ConsoleProgress, print_evaluation, print_sweep, print_table
from lora_sku.judges import Rates
from lora_sku.judging import Generation, Judgement
from lora_sku.recipe import HARD_NEGATIVES
from lora_sku.scores import Evaluation, Scores
from lora_sku.sweep import Point, Sweep


class Clock:
    """A clock that the test turns."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


TERMS = {"guided_distortion": 1.25, "random_disassociation": 2.0, "held_responses": 0.5}


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        terms=TERMS,
        loss=3.0,
        grad_norm=1.0,
        learning_rate=1e-3,
        answer_tokens=10,
        micro_batch_prompts=2,
        seconds=1.0,
        memory_gib=3.14159,
    )


def test_piped_lines_have_the_losses_the_memory_and_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with ConsoleProgress() as progress:
        progress.stage("acquire")
        clock.now += 30
        progress.step(record(1), 5)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "== acquire",
        "step 1/5  GD 1.250  RD 2.000  HR 0.500  3.14 GiB  2:00 left",
    ]


def test_time_left_of_a_resumed_run_counts_its_own_steps_only(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = ConsoleProgress()
    progress.stage("acquire")
    clock.now += 10
    progress.step(record(91), 100)
    clock.now += 10
    progress.step(record(92), 100)
    assert re.findall(r"(\d+:\d\d) left", capsys.readouterr().err) == ["1:30", "1:20"]


def test_piped_lines_come_now_and_then_and_at_both_ends(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = ConsoleProgress()
    progress.stage("acquire")
    for step in range(1, 41):
        clock.now += 1
        progress.step(record(step), 40)
    steps = [int(step) for step in re.findall(r"step (\d+)/40", capsys.readouterr().err)]
    assert steps[0] == 1
    assert steps[-1] == 40
    assert 4 <= len(steps) <= 7


def test_parts_of_the_evaluation_are_told_when_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = ConsoleProgress()
    progress.evaluated("likelihood of forget_seen", 4, 8)
    progress.evaluated("likelihood of forget_seen", 8, 8)
    assert capsys.readouterr().err == "likelihood of forget_seen: 8/8\n"


def test_a_terminal_gets_a_bar_with_the_same_facts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    with ConsoleProgress() as progress:
        progress.stage("acquire")
        progress.step(record(1), 5)
        progress.step(record(5), 5)
        progress.evaluated("likelihood", 2, 4)
    out, err = capsys.readouterr()
    assert out == ""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
    assert "GD 1.250  RD 2.000  HR 0.500  3.14 GiB" in text
    assert "5/5" in text
    assert "2/4" in text
    assert "\x1b[" in err


def test_a_table_is_on_stdout_with_whole_labels(capsys: pytest.CaptureFixture[str]) -> None:
    label = "NLL of harmful answers, trained prompts (nats/token)"
    print_table("Base beside unlearned", ("", "base", "unlearned"), [(label, "1.5", "4.0")])
    out, err = capsys.readouterr()
    assert err == ""
    assert "Base beside unlearned" in out
    (line,) = [line for line in out.splitlines() if label in line]
    assert re.search(r"1\.5 .*4\.0", line)


def test_a_sweep_is_told_point_by_point_and_as_a_table(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    retain = Cost("retain", 1.0625, kl=0.0312, first_kl=0.0125, refused=1, prompts=40)
    shop = Cost("shop", 1.25, kl=0.5, first_kl=0.0625, refused=2, prompts=10)
    hard = Cost(HARD_NEGATIVES, 2.0, kl=0.5, first_kl=0.25, refused=3, prompts=8)
    best = Point(2.5, 3.5, 0.75, refused=7, prompts=9, costs=(retain, shop, hard))
    base = Point(0.0, 2.0, 0.0, refused=0, prompts=9, costs=())
    with ConsoleProgress() as progress:
        progress.swept(best)
    assert capsys.readouterr().err.splitlines() == [
        "strength 2.5: refused 7 of 9 harmful, 1 of 40 retain, 2 of 10 shop, 3 of 8"
        " hard_negatives; harmful answers 3.500 nats/token, normal perplexity"
        " 1.062 / 1.250 / 2.000 x base"
    ]
    other = replace(best, strength=4.0)
    print_sweep(Sweep(Budget(1.05, refused=0.03), base, (best, other), best))
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r"\s*\u2502\s*", line)[1:-1] for line in lines if "\u2502" in line]
    figures = ["7 of 9", "3 of 50", "3 of 8", "1.250", "0.0625", "+1.500"]
    assert rows == [["2.5", *figures, "chosen"], ["4", *figures, ""]]
    assert "perplexity at most 1.05 x" in lines[0]


def test_an_evaluation_is_told_from_its_headline_on_and_no_text_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shares = {"forget_unseen": 0.0, "retain_unseen": 0.0}
    scores = Scores(1.0, 2.0, 8.0, 0.0, shares, shares)
    rates = Rates({"harmful": 8, "refusal": 1, "degenerate": 1, "benign": 0}, complying=8)
    column = dict.fromkeys(shares, rates)
    judged = {"compliance": Judgement({"base": column, "unlearned": column}, {})}
    said = Generation("forget_unseen", "the-prompt", "the-harm", "the-harm")
    print_evaluation(Evaluation(scores, scores, {}, (said,), judged))
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("Base beside unlearned. Complying:")
    first, further = out.index("8 of 10 (80 %; 49 to 94 %)"), out.index("Likelihoods and further")
    assert first < further < out.index("NLL of harmful answers, unseen prompts")
    assert "the-" not in out
