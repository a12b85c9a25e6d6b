"""JUnit XML and Markdown of a comparison: outcomes, limits of size, texts that format nothing."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from harness.external import command, gate, junit, limits, markdown
from harness.external.judge import Comparison
from tests.support import lm_eval_logs
from tests.support.lm_eval_logs import Run, Sample, outcomes, planted, sides

Found = tuple[str, str, str]
"""classname, name and outcome of a test."""


def cases(xml: str) -> list[Found]:
    """Return the tests of a report, after a check of its totals."""
    root = ElementTree.fromstring(xml)
    (suite,) = root
    found = []
    for case in suite:
        (outcome,) = [child.tag for child in case]
        found.append((case.attrib["classname"], case.attrib["name"], outcome))
    assert len({case[:2] for case in found}) == len(found)  # GitLab ignores a second test of one name
    for element in (root, suite):
        assert element.attrib["tests"] == str(len(found))
        for total, outcome in {"failures": "failure", "errors": "error", "skipped": "skipped"}.items():
            assert element.attrib[total] == str(sum(case[2] == outcome for case in found))
    return found


def compared(folder: Path) -> Comparison:
    return command.compare(str(folder / "before"), str(folder / "after"), suites="", margin=0.02, overrides=[])


def grouped(folder: Path, tasks: Mapping[str, tuple[Sequence[Sample], Sequence[Sample]]], groups: Mapping[str, Sequence[str]]) -> None:
    sides(folder, {name: pair[0] for name, pair in tasks.items()}, {name: pair[1] for name, pair in tasks.items()}, groups=groups)


def test_a_loss_is_a_failure_with_its_numbers_as_text(tmp_path: Path, run: Run) -> None:
    """500 items, 345 right before, 320 after: 25 of 500 are 5 points."""
    planted(tmp_path)
    assert run("--max-loss", "0.02", "--junit", str(tmp_path / "new" / "junit.xml"))[0] == 1
    xml = (tmp_path / "new" / "junit.xml").read_text()
    assert cases(xml) == [("colours", "acc", "failure")]
    failure = ElementTree.fromstring(xml).find(".//failure")
    assert failure is not None
    assert failure.text is not None
    assert "acc 0.690 before, 0.640 after, -0.050" in failure.text
    assert failure.attrib["message"].endswith("more is lost than allowed")


@pytest.mark.parametrize(
    ("counts", "lacks", "code", "found"),
    [
        ((2000, 0, 0, 0), False, 0, [("colours", "acc", "system-out")]),
        ((300, 45, 20, 135), False, 1, [("colours", "acc", "failure")]),
        ((20, 1, 0, 4), False, 3, [("colours", "acc", "error")]),
        ((2000, 0, 0, 0), True, 3, [("colours", "acc", "system-out"), ("b", "missing", "error")]),
    ],
    ids=["pass", "fail", "few items", "missing task"],
)
def test_outcomes_agree_with_the_exit_code(
    tmp_path: Path, run: Run, counts: tuple[int, int, int, int], lacks: bool, code: int, found: list[Found]
) -> None:
    """1: a failure; 3: an error and no failure; 0: neither. Both files are written in each case."""
    before, after = outcomes(*counts)
    sides(tmp_path, {"colours": before} | ({"b": before} if lacks else {}), {"colours": after})
    files = [tmp_path / "junit.xml", tmp_path / "summary.md"]
    assert run("--max-loss", "0.02", "--junit", str(files[0]), "--summary", str(files[1]))[0] == code
    assert cases(files[0].read_text()) == found
    verdict = {0: "pass", 1: "fail", 3: "undecided"}[code]
    assert files[1].read_text().startswith(f"### Forgetting gate: {verdict}\n")


def test_a_mean_of_suites_is_a_test_and_its_tasks_do_not_fail_alone(tmp_path: Path, run: Run) -> None:
    """Of two groups one loses 10 of 200 items: the mean does, neither does under its own limit."""
    kept, lost = outcomes(200, 0, 0, 0), outcomes(190, 10, 0, 0)
    grouped(tmp_path, {"a1": kept, "a2": kept, "b1": kept, "b2": lost}, {"a": ["a1", "a2"], "b": ["b1", "b2"]})
    assert run("--max-loss", "0.002", "--junit", str(tmp_path / "j.xml"), "--summary", str(tmp_path / "s.md"))[0] == 1
    found = {case[:2]: case[2] for case in cases((tmp_path / "j.xml").read_text())}
    assert found["gate", "mean of suites"] == "failure"
    assert set(found) == {("gate", "mean of suites"), *((name, "acc") for name in ("a", "b", "a.a1", "a.a2", "b.b1", "b.b2"))}
    assert found["b.b2", "acc"] == found["a", "acc"] == "system-out"
    assert "| in the mean |" in (tmp_path / "s.md").read_text()


def test_without_limits_verdicts_are_the_outcomes(tmp_path: Path, run: Run) -> None:
    """Lost is a failure, kept passes, what is not decided is skipped; the exit code stays 0."""
    tasks = {"lost": outcomes(300, 100, 0, 0), "kept": outcomes(2000, 0, 0, 0), "open": outcomes(20, 2, 0, 0)}
    grouped(tmp_path, tasks, {})
    assert run("--junit", str(tmp_path / "j.xml"), "--summary", str(tmp_path / "s.md"))[0] == 0
    assert {case[0]: case[2] for case in cases((tmp_path / "j.xml").read_text())} == {
        "lost": "failure",
        "kept": "system-out",
        "open": "skipped",
    }
    text = (tmp_path / "s.md").read_text()
    assert text.startswith("### Forgetting\n\n`tuned` (`")
    assert "\nLost on lost; kept kept; not enough evidence on open.\n" in text
    assert text.index("| `lost` |") < text.index("| `kept` |")


def test_names_that_xml_cannot_hold_are_replaced(tmp_path: Path) -> None:
    """A control character, and what XML escapes."""
    before, after = outcomes(3, 1, 0, 0)
    sides(tmp_path, {"a\x07<&'\"]]>": before}, {"a\x07<&'\"]]>": after})
    assert cases(junit.document(compared(tmp_path), None))[0][0] == "a\ufffd<&'\"]]>"


def test_a_text_of_an_item_mentions_nobody_and_formats_nothing(tmp_path: Path) -> None:
    """It is inline code, on one line, whose fence it does not contain; a pipe ends no cell."""
    prompt = "@octocat ```` <img src=x> | [a](b)\n# title\n</details>"
    sides(
        tmp_path,
        {"a|b": [lm_eval_logs.choice(0, right=True, prompt=prompt)]},
        {"a|b": [lm_eval_logs.choice(0, right=False, prompt=prompt)]},
    )
    text = markdown.document(compared(tmp_path), None)
    (item,) = [line for line in text.split("\n") if line.startswith("- ")]
    assert "````` @octocat ```` <img src=x> ¦ [a](b) # title </details> `````" in item
    row = next(line for line in text.split("\n") if line.startswith("| `a"))
    assert row.count("|") == 10
    assert "Not enough evidence on a\\|b." in text


def test_a_summary_stays_within_its_size_and_closes_what_it_opens(tmp_path: Path) -> None:
    """90 suites with long names and items of four-byte characters, at several limits."""
    long, few = "\N{GRINNING FACE}" * 3000, range(4)
    before = [lm_eval_logs.choice(i, right=True, prompt=long) for i in few]
    after = [lm_eval_logs.choice(i, right=False, prompt=long) for i in few]
    sides(tmp_path, {"one": before}, {"one": after})
    one, allowed = compared(tmp_path), limits.read(["0.02"], None)
    assert allowed is not None
    names = [f"{'n' * 150}{number}" for number in range(90)]
    changes = one.aggregates[0].changes["one"]
    comparison = dataclasses.replace(
        one,
        rows=pd.concat([one.rows.assign(suite=name, task=name) for name in names], ignore_index=True),
        aggregates=tuple(dataclasses.replace(one.aggregates[0], name=name, changes={name: changes}) for name in names),
    )
    decided = gate.decide(comparison.aggregates, allowed)
    whole = markdown.document(comparison, decided, 10**9)
    assert len(whole.encode()) > markdown.MOST_BYTES
    for most in (markdown.MOST_BYTES, 30_000, 10_000, 3000, 100, 0):
        text = markdown.document(comparison, decided, most)
        assert len(text.encode()) <= most
        assert text.count("<details>") == text.count("</details>")
        assert len(re.findall("^```", text, flags=re.MULTILINE)) % 2 == 0
    assert "… cut to GitHub's limit of size\n```" in markdown.document(comparison, decided)
    assert "50 more suites are in the text below." in markdown.document(comparison, decided)


def test_a_summary_is_appended(tmp_path: Path, run: Run) -> None:
    planted(tmp_path)
    file = tmp_path / "step.md"
    file.write_text("earlier\n")
    for _ in range(2):
        run("--max-loss", "0.02", "--summary", str(file))
    text = file.read_text()
    assert text.startswith("earlier\n\n### Forgetting gate: fail\n")
    assert text.count("### Forgetting gate: fail\n") == 2


def test_summaries_of_a_step_stay_below_its_limit(tmp_path: Path) -> None:
    """GitHub drops all of them beyond it."""
    planted(tmp_path)
    file = tmp_path / "step.md"
    file.write_bytes(b"x" * (markdown.STEP_BYTES - 500))
    markdown.append(compared(tmp_path), None, file)
    assert markdown.STEP_BYTES - 500 < file.stat().st_size <= markdown.STEP_BYTES


@pytest.mark.parametrize("option", ["--junit", "--summary"])
def test_a_file_that_cannot_be_written_is_rejected_before_the_comparison(tmp_path: Path, run: Run, option: str) -> None:
    """A folder, a place below a file, a device."""
    (tmp_path / "file").write_text("")
    for place, got in {str(tmp_path): "a directory", str(tmp_path / "file" / "x"): "not a directory", "/dev/null": "a device"}.items():
        code, out, err = run(option, place)
        assert (code, out) == (2, "")
        assert err.startswith(f"harness: compare: {option} {place}: got ")
        assert got in err
