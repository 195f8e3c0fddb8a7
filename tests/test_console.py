"""What a person sees."""

import re

import pytest

from lora_sku import console
from lora_sku.acquisition import StepRecord
from lora_sku.console import ConsoleProgress, print_sweep, print_table
from lora_sku.sweep import Budget, Cost, Point, Sweep


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


def record(step: int, random: float | None = 2.0) -> StepRecord:
    return StepRecord(
        step=step,
        guided_distortion=1.25,
        random_disassociation=random,
        preservation_divergence=0.5,
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
        "step 1/5  GD 1.250  RD 2.000  PD 0.500  3.14 GiB  2:00 left",
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


def test_a_term_without_weight_is_off(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = ConsoleProgress()
    progress.stage("acquire")
    progress.step(record(1, random=None), 1)
    assert "RD off" in capsys.readouterr().err


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
    assert "GD 1.250  RD 2.000  PD 0.500  3.14 GiB" in text
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
    plain = Point(1.0, 2.25, 0.125, 1.0625, 0.0312)
    best = Point(2.5, 3.5, 0.75, 1.03125, 0.0156)
    with ConsoleProgress() as progress:
        progress.swept(best)
    assert capsys.readouterr().err.splitlines() == [
        "strength 2.5: harmful answers 3.500 nats/token, normal perplexity 1.031 x base"
    ]
    print_sweep(Sweep(Budget(1.05), 2.0, 1.5, (plain, best), best))
    lines = capsys.readouterr().out.splitlines()
    rows = [re.findall(r"[^\s\u2502]+", line) for line in lines if "\u2502" in line]
    assert rows == [
        ["1", "+0.250", "0.125", "1.062", "0.0312"],
        ["2.5", "+1.500", "0.750", "1.031", "0.0156", "chosen"],
    ]
    assert "budget 1.05 x" in lines[0]


def test_a_sweep_shows_every_protected_set(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    point = Point(1.0, 2.25, 0.125, 1.0625, 0.0312, (Cost("shop", 1.25, 0.5),))
    with ConsoleProgress() as progress:
        progress.swept(point)
    assert "normal perplexity 1.062 / 1.250 x base" in capsys.readouterr().err
    print_sweep(Sweep(Budget(1.05), 2.0, 1.5, (point,), point))
    out = capsys.readouterr().out
    assert "shop perplexity" in out
    row = re.findall(r"[^\s\u2502]+", next(line for line in out.splitlines() if "chosen" in line))
    assert row == ["1", "+0.250", "0.125", "1.062", "0.0312", "1.250,", "0.5000", "chosen"]
