"""The page: whole, offline, and deaf to what the texts on it say."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_tools import (
    generation,
    sweep,
    with_every_set,
    with_likeness,
    with_lookalikes,
    with_tasks,
    write,
    write_run,
)

from lora_sku.report import write_report
from lora_sku.report.page import report_html
from lora_sku.report.read import read_run

NASTY = (
    "</script></p></details><script>alert(1)</script><img src=x onerror=alert(1)>\"' onload='x"
    " {{ 7 * 7 }} &lt; \x1b[31m\x00\x07\x9b31m \u202eevil\u2066 \ud800"
    " \u0645\u0631\u062d\u0628\u0627 "
) + "w" * 5000
VOID = {"meta", "br", "img", "input", "link", "hr"}


class Seen(HTMLParser):
    """Elements, attributes and texts, and whether every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.shown: list[str] = []
        self.folded: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.folded if "details" in self.open else self.shown).append(data)


def page_of(folder: Path) -> str:
    return report_html(read_run(folder))


def test_the_page_has_every_section_and_the_figures(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    seen = Seen(page)
    assert seen.open == []
    told = " ".join(seen.shown)
    titles = ("What unlearning did", "One answer of each kind", "Likelihoods and labels")
    titles += ("How the strength was chosen", "Losses of stage 1", "Memory")
    titles += ("Completions, before and after", "Provenance")
    places = [page.index(f">{title}</h2>") for title in titles]
    assert places == sorted(places)
    assert "+0.750" in told  # gained
    assert "1.250 x" in told  # paid
    assert "Stage 1 took 100 s for 100 steps." in told
    assert "no proof of harmless behaviour" in told
    assert "compliance took its thresholds from this run" in told
    assert seen.tags["caption"] == seen.tags["table"] > 3
    names = [value for name, value in seen.attributes if name == "aria-label"]
    assert any("Forgetting against its price" in name for name in names)


def test_the_first_table_is_the_headline_and_has_broken_text_beside_harm(tmp_path: Path) -> None:
    page = page_of(with_every_set(write_run(tmp_path / "run")))
    table = page[page.index("<table") : page.index("</table>")]
    rows = re.findall(r'<th scope="row">(.*?)<br>', table)
    assert rows == [
        "Complying: unseen harmful prompts",
        "Complying: unseen harmful prompts, prefilled",
        "Complying: harmful prompts of other kinds",
        "Complying: unseen normal prompts",
        "Complying: unseen hard negatives",
        "Complying: hard negatives of other kinds",
        "Degenerate: unseen harmful prompts",
        "Degenerate: unseen normal prompts",
        "Perplexity of normal answers",
    ]
    assert "9 of 10 · <strong>90 %</strong>" in table
    assert "(40 to 89 %)" in table
    assert "0.222 x" in table
    assert "by the judge compliance" in table


def test_the_page_asks_for_nothing_and_runs_nothing(tmp_path: Path) -> None:
    seen = Seen(page_of(write_run(tmp_path / "run")))
    assert not {"script", "img", "link", "iframe", "object", "form"} & seen.tags.keys()
    for name, value in seen.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#")
    (policy,) = [value for _, value in seen.attributes if value.startswith("default-src")]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")
    assert "url(" not in page_of(tmp_path / "run")


def test_texts_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    rows = (
        generation("forget_unseen", NASTY, NASTY, NASTY, ("harmful", "benign")),
        generation("retain_unseen", NASTY, NASTY, NASTY, None),
    )
    folder = write_run(tmp_path / "run", rows, base_model={"path": NASTY.replace("\ud800", "")})
    page = write_report(folder).read_text(encoding="utf-8")
    plain = Seen(page_of(write_run(tmp_path / "plain")))
    seen = Seen(page)
    assert seen.open == []
    assert "script" not in seen.tags
    assert "img" not in seen.tags
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert {name for name, _ in seen.attributes} == {name for name, _ in plain.attributes}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    told = "".join(seen.shown)
    assert "\u241b[31m\u2400\u2407" in told
    assert "{{ 7 * 7 }} &lt; " in told  # entities of the text are its own
    assert "\u0645\u0631\u062d\u0628\u0627" in told


def test_harmful_texts_and_forget_prompts_wait_in_a_fold_and_blurred(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    seen = Seen(page)
    folded, shown = " ".join(seen.folded), " ".join(seen.shown)
    for text in ("forget-prompt", "harm-text"):
        assert text in folded
        assert text not in shown
        assert re.search(rf'class="text blur" dir="auto" tabindex="0">{text}<', page)
    for text in ("odd-text", "normal-prompt", "normal-text", "(no text)"):
        assert text in shown
    assert "open" not in [name for name, _ in seen.attributes]


def test_forget_completions_that_nobody_judged_are_folded(tmp_path: Path) -> None:
    rows = (generation("forget_unseen", "asked", "first-text", "second-text", None),)
    seen = Seen(page_of(write_run(tmp_path / "run", rows)))
    assert "first-text" not in " ".join(seen.shown)
    assert "second-text" in " ".join(seen.folded)


@pytest.mark.parametrize("split", ["prefilled", "other_harm"])
def test_all_that_asks_for_harm_is_folded(tmp_path: Path, split: str) -> None:
    rows = (
        generation(split, "one-prompt", "first-text", "kept", ("harmful", "refusal")),
        generation(split, "other-prompt", "second-text", "third-text", None, prefill="Sure, "),
    )
    seen = Seen(page_of(write_run(tmp_path / "run", rows)))
    shown, folded = " ".join(seen.shown), " ".join(seen.folded)
    for text in ("one-prompt", "other-prompt", "first-text", "second-text", "third-text"):
        assert text not in shown
        assert text in folded
    assert "labelled complying by compliance" in folded
    assert "kept" in shown
    assert "both answers begun with \u201cSure, \u201d" in shown


def test_the_examples_on_top_are_the_first_by_hash_and_the_page_says_so(tmp_path: Path) -> None:
    rows = [
        generation("retain_unseen", prompt, f"{prompt}-base", "now", ("benign", "benign"))
        for prompt in "abc"
    ]
    rows.append(generation("prefilled", "d", "one", "two", ("harmful", "harmful")))
    page = page_of(write_run(tmp_path / "run", rows))
    firsts = page[page.index("One answer of each kind") : page.index("What these figures do not")]
    assert "SHA-256" in firsts
    assert firsts.count("<article") == 1
    # 2e7d..., against ca97... of a and 3e23... of b
    assert "c-base" in firsts


def test_every_strength_is_told_with_its_refusals(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    write(folder / "sweep.json", sweep((3, 8, 9, 10)))
    page = page_of(folder)
    assert "harmful prompts refused, %" in page
    (chosen,) = re.findall(r'<tr class="chosen">(.*?)</tr>', page)
    assert re.findall(">([^<>]+)<", chosen) == [
        *("2", "8 of 10", "0 of 20", "1 of 8", "1.040", "0.0020", "+0.500", "chosen")
    ]


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for name in ("evaluation.json", "generations.jsonl", "sweep.json", "memory.json"):
        (folder / name).unlink()
    told = " ".join(Seen(page_of(folder)).shown)
    assert "This run is not finished" in told
    assert "Likelihoods and labels" not in told
    assert "What unlearning did" not in told


def test_the_same_run_gives_the_same_page_and_replaces_the_old_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    first = write_report(folder)
    assert first == folder / "report.html"
    before = first.read_bytes()
    assert write_report(folder).read_bytes() == before
    assert write_report(folder, tmp_path / "other.html").read_bytes() == before


@pytest.mark.parametrize("term", ["guided_distortion", "preservation_divergence"])
def test_a_term_that_is_not_finite_leaves_the_rest(tmp_path: Path, term: str) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / "metrics.jsonl"
    path.write_text(re.sub(rf'"{term}": [\d.e-]+', f'"{term}": NaN', path.read_text()))
    told = Seen(page_of(folder)).shown
    titles = {"guided_distortion": "Guided distortion"} | {
        "preservation_divergence": "Preservation divergence"
    }
    assert titles.pop(term) not in told
    assert set(titles.values()) <= set(told)


def test_a_runs_own_page_tells_how_it_treats_lookalikes(tmp_path: Path) -> None:
    rows = (generation("lookalikes", "kill-a-process", "first", "second", ("benign", "refusal")),)
    folder = with_lookalikes(write_run(tmp_path / "run", rows))
    shown = " ".join(Seen(report_html(read_run(folder))).shown)
    assert "Complying: harmless look-alikes" in shown
    assert "10 completions of harmless look-alikes" in shown
    for text in ("Harmless look-alikes", "kill-a-process", "first", "second"):
        assert text in shown  # nothing of it is folded


def test_the_page_tells_how_like_the_bases_the_answers_are(tmp_path: Path) -> None:
    plain = page_of(write_run(tmp_path / "old"))
    assert "how like the base" not in plain  # an older run does not know it
    seen = Seen(page_of(with_likeness(write_run(tmp_path / "run"))))
    told = " ".join(seen.shown)
    assert "Answers to 8 unseen normal prompts: how like the base" in told
    for figure in ("0.750", "0.500", "0.250"):
        assert figure in seen.shown
    assert seen.tags["caption"] == seen.tags["table"]


def test_the_page_tells_the_tasks_of_the_harness(tmp_path: Path) -> None:
    assert "lm-evaluation-harness" not in page_of(write_run(tmp_path / "old"))
    page = page_of(with_tasks(write_run(tmp_path / "run")))
    seen = Seen(page)
    assert "Tasks of lm-evaluation-harness" in " ".join(seen.shown)
    for cell in ("0.500 \u00b1 0.125", "0.375", "6"):
        assert cell in seen.shown
    assert seen.tags["caption"] == seen.tags["table"]
