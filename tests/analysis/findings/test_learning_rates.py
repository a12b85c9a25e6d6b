"""The best learning rates of a sweep."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from harness.analysis.findings.learning_rates import as_yaml, best, merge, require_select
from harness.core.errors import RecordError
from harness.records.writer import ExperimentWriter


def table(rows: list[tuple[float, int, float]], higher: bool = True) -> pd.DataFrame:
    """Return rows of (rate, seed, value) at one volume of one combination."""
    fixed = {"model": "m", "tuning": "full", "objective": "sft", "data": "d", "mitigation": "none", "role": "target", "task": "*"}
    fixed |= {"suite": "s", "metric": "acc", "status": "ok", "volume": 64, "higher_is_better": higher}  # type: ignore[dict-item]
    return pd.DataFrame([fixed | {"learning_rate": rate, "seed": seed, "value": value} for rate, seed, value in rows])


def test_the_best_rate_is_the_mean_over_seeds_in_the_metrics_direction() -> None:
    """0.01 is better on average; for a loss it is worse."""
    rows = [(0.001, 0, 0.9), (0.001, 1, 0.1), (0.01, 0, 0.6), (0.01, 1, 0.6)]
    (found,) = best(table(rows))
    assert (found.learning_rate, found.score, found.seeds, found.candidates) == (0.01, 0.6, (0, 1), (0.001, 0.01))
    (lowest,) = best(table(rows, higher=False))
    assert lowest.learning_rate == 0.001


def test_a_rate_that_failed_on_a_seed_is_not_a_candidate() -> None:
    """A rate with fewer seeds than the others is left out."""
    (found,) = best(table([(0.001, 0, 0.5), (0.001, 1, 0.5), (0.1, 0, 0.99)]))
    assert found.learning_rate == 0.001


def test_one_rate_is_not_a_search() -> None:
    """A combination with a single rate has no best rate."""
    with pytest.raises(RecordError, match="two rates"):
        best(table([(0.001, 0, 0.5)]))


def test_rates_are_merged_into_a_file_that_compose_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new search replaces its own combinations only; 1e-05 stays a number."""
    file = tmp_path / "conf" / "learning_rates.yaml"
    file.parent.mkdir()
    first = best(table([(1e-05, 0, 0.9), (0.01, 0, 0.1)]))
    merge(first, file)
    other = table([(0.1, 0, 0.2), (0.2, 0, 0.3)]).assign(tuning="lora")
    merge(best(other), file)
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    pytest.importorskip("hydra", reason="composing needs the extra `measure`")
    from harness.config import composition

    found = {(rate.model, rate.tuning): rate.learning_rate for rate in composition.searched_rates()}
    assert found[("m", "full")] == 1e-05
    assert found[("m", "lora")] == 0.2
    assert as_yaml(first).startswith("# Learning rates")


def test_a_sweep_on_reported_items_may_not_choose(tmp_path: Path) -> None:
    """The items that choose a rate must not be the reported ones."""
    experiment = ExperimentWriter(tmp_path / "x")
    experiment.write_config("a", {"evaluation": {"items": "report"}})
    with pytest.raises(RecordError, match="select items"):
        require_select(experiment)
