"""docs/CLAIMS.md, its page and its small tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.analysis.claims import declaration, tables
from harness.cli import app
from harness.core.errors import ConfigError
from harness.records.writer import ExperimentWriter
from harness.report import claims, html
from tests.support import small_tables
from tests.support.small_tables import finding

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "results" / "reference" / "claims"
PAIR = {"model": "m", "first_cell": "gold", "second_cell": "own", "headline_suite": "probe", "difference": 0.30, "low": 0.20, "high": 0.40}
MEGABYTE = 1_000_000


def ran(folder: Path, *, declared: str = "", p_value: float = 0.001) -> list[claims.Result]:
    """Return the results of a claim with planted tables, and of one that was not run."""
    block = {"number": 8, "title": "Own words", "papers": ["arXiv 1"], "statement": "Less.", "refuted": "As much.", "margin": 0.02}
    block |= {
        "limits": "Small.",
        "literature": "Said.",
        "headline": {"test": "equal_gain", "contrasts": [{"arm": "own", "than": "gold", "expect": "less"}]},
    }
    own, other = declaration.read(block, ["own", "gold"]), declaration.read(block | {"number": 9, "title": "Other"}, ["own", "gold"])
    assert own is not None
    assert other is not None
    rows = [finding("gold", -0.5, target_nats=3.5, volume=64, mitigation="none")]
    label = "self_output[author=m-l,max_new_tokens=12]"
    rows += [finding("own", -0.1, target_nats=0.25, volume=64, mitigation=label, epochs=3)]
    rows += [finding(arm, 0.2, suite="skill", role="target", before=0.5, volume=64, verdict="gained") for arm in ("gold", "own")]
    about = {"declared": declared or own.digest, "runs": 6, "failed": 0, "training_seconds": 90}
    tables.write(small_tables.tables(rows, [PAIR | {"target_suite": "skill", "p_value": p_value}], **about), folder / "own")
    return claims.results({"own": own, "other": other}, folder)


def test_the_committed_document_is_what_the_committed_tables_give() -> None:
    """``harness claims`` writes it; no number is typed by hand."""
    text = claims.text(claims.results(declaration.shipped(), COMMITTED))
    assert (ROOT / "docs" / "CLAIMS.md").read_text(encoding="utf-8") == text.rstrip("\n") + "\n"


def test_the_readme_quotes_estimates_of_the_document() -> None:
    """Each number with an interval in the paragraph on claims is in claims 2, 4 and 12."""
    document = (ROOT / "docs" / "CLAIMS.md").read_text(encoding="utf-8").replace("\\", "").replace("\u00a0", " ")
    plain = "".join(part for part in document.split("\n## ") if part.startswith(("2. ", "4. ", "12. ")))
    paragraph = next(
        part for part in (ROOT / "README.md").read_text(encoding="utf-8").split("\n\n") if part.startswith("[Claims of the literature]")
    )
    quoted = re.findall(r"[+−]?\d+\.\d+ \[[^\]]*\]", paragraph.replace("\n", " "))
    assert len(quoted) == 7
    assert [one for one in quoted if f" {one}" not in plain] == []


def test_the_committed_tables_are_small() -> None:
    """All claims together: 3 MB."""
    assert sum(path.stat().st_size for path in COMMITTED.rglob("*") if path.is_file()) <= 3 * MEGABYTE


def test_a_claim_is_told_with_verdict_interval_and_limits(tmp_path: Path) -> None:
    """One that was not run has no number."""
    found = ran(tmp_path)
    text = claims.text(found)
    assert "**Verdict: shown (declared before the runs).**" in text
    assert (
        "| forgetting of own minus gold, at equal gain | m, full | below 0 | −30.0 \\[−40.0, −20.0\\] points | 0.001 | shown |  |"
        in text.replace("\u00a0", " ")
    )
    assert "| own | full, self_output\\[author=m-l\\], 3 passes | 0.001 | 64 |" in text
    assert (
        "| gold | full, no mitigation | 0.001 | 64 | +20.0 \\[+18.0, +22.0\\] points | +50.0 \\[+48.0, +52.0\\] points | 3.50 |"
        in text.replace("\u00a0", " ")
    )
    assert "**Verdict: not run yet.**" in text
    assert claims.lines(found) == " 8  own: shown (declared before the runs)\n 9  other: not run yet"
    page = html.render(claims.page(found))
    assert "Of 2 claims: 1 shown, 1 not run yet." in page
    assert "shown (declared before the runs)." in page


def test_a_changed_block_was_declared_afterwards(tmp_path: Path) -> None:
    """The hash of the first start is another's, or there was no claim then."""
    assert ran(tmp_path, declared="another")[0].sentence == "shown (declared afterwards)"


def test_an_unknown_name_is_rejected(tmp_path: Path) -> None:
    """Names select claims."""
    found = ran(tmp_path)
    assert [one.name for one in claims.chosen(found, ["other"])] == ["other"]
    with pytest.raises(ConfigError, match="claims: got 'owm'; allowed: own, other"):
        claims.chosen(found, ["owm"])


def test_only_a_declared_claim_is_collected(tmp_path: Path) -> None:
    """The name of the results says which claim they are of."""
    with pytest.raises(ConfigError, match="--collect: got the results tiny; allowed: claims-own"):
        claims.collect(ExperimentWriter(tmp_path / "tiny"), {"own": declaration.shipped()["own_words"]}, tmp_path)


def test_the_command_writes_document_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without tables, every claim is not run yet; with names, nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert app.main(["claims", "lora"]) == 0
    assert "## 7. LoRA learns less" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert app.main(["claims"]) == 0
    assert " 7  lora: not run yet" in capsys.readouterr().out
    assert (tmp_path / "results" / "claims" / "index.html").is_file()
    assert (tmp_path / "docs" / "CLAIMS.md").read_text().startswith("# Claims about forgetting")
