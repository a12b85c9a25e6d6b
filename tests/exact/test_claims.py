"""`make test-claims`: the smallest claim again, its verdicts those of docs/CLAIMS.md.

On another processor, estimates stay within the committed intervals, not equal to the last digit.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.analysis.claims import declaration
from harness.cli import app
from harness.report import claims

COMMITTED = Path(__file__).resolve().parents[2] / "results" / "reference" / "claims"
SMALLEST = "chat_vector"


def test_the_smallest_claim_has_its_committed_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep, the small tables and the declared tests, on this machine."""
    declared = {SMALLEST: declaration.shipped()[SMALLEST]}
    (before,) = claims.results(declared, COMMITTED)
    if before.tables is None:
        pytest.skip(f"{SMALLEST} was not run yet: make claims CLAIM={SMALLEST}")
    monkeypatch.chdir(tmp_path)
    assert app.main(["sweep", f"experiment=claims/{SMALLEST}", "--quiet"]) == 0
    assert app.main(["claims", "--collect", f"results/claims-{SMALLEST}"]) == 0
    (after,) = claims.results(declared, tmp_path / "results" / "reference" / "claims")
    assert after.declared == "declared before the runs"
    assert [line.verdict for line in after.headline] == [line.verdict for line in before.headline]
    for old, new in zip(before.headline, after.headline, strict=True):
        assert old.low - old.margin <= new.estimate <= old.high + old.margin, new.what
