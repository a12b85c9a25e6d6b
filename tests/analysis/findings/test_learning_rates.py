"""The best learning rates of a sweep."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from harness.analysis.findings.learning_rates import as_yaml, best, merge, require_select
from harness.config.yaml_files import load_yaml
from harness.core.errors import ConfigError, RecordError
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


OWN = """# Ours.
rates:
  # measured by hand
  - model: a
    tuning: lora  # rank 8
    objective: sft
    data: d
    mitigation: none
    learning_rate: 1e-4
    candidates:
    - 1e-4
    - 1e-3  # too high
    suite: s
    metric: acc
    score: 0.5
    volume: 8
    seeds: [0]

  - {model: m, tuning: full, objective: sft, data: d, mitigation: none, learning_rate: 5e-1, MORE}  # the last one
  # after it
# the end
other: [1, 2]
"""
MORE = "candidates: [0.5], suite: s, metric: acc, score: 0.9, volume: 8, seeds: [0]"
OWN = OWN.replace("MORE", MORE)
ENTRY = f"{{model: m, tuning: full, objective: sft, data: d, mitigation: none, learning_rate: 5e-1, {MORE}}}"
BLOCK = "model: m\n    tuning: full\n    objective: sft\n    data: d\n    mitigation: none\n    learning_rate: 5e-1\n    "
BLOCK += (
    MORE.replace("], ", "]\n    ")
    .replace(": s, ", ": s\n    ")
    .replace("acc, ", "acc\n    ")
    .replace("0.9, ", "0.9\n    ")
    .replace("8, ", "8\n    ")
)


@pytest.mark.parametrize("own", [OWN, OWN.replace(ENTRY, BLOCK), OWN.replace("\n", "\r\n")])
def test_entries_and_comments_of_the_user_are_kept(tmp_path: Path, own: str) -> None:
    """One entry is replaced where it stands, a new one comes after the list, all else stays."""
    file, neighbour = tmp_path / "rates.yaml", tmp_path / "rates.tmp"
    (tmp_path / "real.yaml").write_bytes(own.encode())
    (tmp_path / "real.yaml").chmod(0o640)
    file.symlink_to("real.yaml")
    neighbour.write_text("mine")
    same, new = (best(table([(1e-05, 0, 0.9), (0.01, 0, 0.1)]).assign(tuning=tuning)) for tuning in ("full", "lora"))
    merge([*same, *new], file)
    (first,), (second,) = (as_yaml(found).splitlines()[2:] for found in (same, new))
    left = file.read_bytes().decode().splitlines(keepends=True)
    expected = own.replace(ENTRY, first.removeprefix("  - ")).replace(BLOCK, first.removeprefix("  - ")).splitlines(keepends=True)
    at = next(number for number, line in enumerate(left) if second in line)
    assert at == next(number for number, line in enumerate(expected) if "the last one" in line) + 1
    assert left[:at] + left[at + 1 :] == expected
    assert load_yaml(file)["other"] == [1, 2]
    assert (neighbour.read_text(), file.is_symlink(), file.stat().st_mode & 0o777) == ("mine", True, 0o640)
    assert {path.name for path in tmp_path.iterdir()} == {"rates.yaml", "real.yaml", "rates.tmp"}


@pytest.mark.parametrize(
    "own", ["", "# only this", "rates:\n", "rates: []  # none yet\n", "other: 1\n", f"rates: [{ENTRY}]", f"rates:\n- {ENTRY}"]
)
def test_rates_are_added_to_every_form_of_list(tmp_path: Path, own: str) -> None:
    """Also where there is none yet, or no line end."""
    file = tmp_path / "rates.yaml"
    file.write_text(own)
    merge(best(table([(1e-05, 0, 0.9), (0.01, 0, 0.1)]).assign(tuning="lora")), file)
    found = load_yaml(file)
    assert [entry["tuning"] for entry in found["rates"]] == (["full", "lora"] if "full" in own else ["lora"])
    assert found["rates"][-1]["learning_rate"] == 1e-05
    assert all(comment in file.read_text() for comment in ("# only this", "# none yet") if comment in own)
    assert found.get("other") == (1 if "other" in own else None)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("rates: 5\n", "rates: got int; allowed: a list"),
        (f"x: &a {ENTRY}\nrates: [*a]\n", "cannot be edited"),
        ("rates: [null]\n", "a list of mappings"),
    ],
)
def test_a_file_that_cannot_be_edited_stays(tmp_path: Path, own: str, message: str) -> None:
    """An alias is an entry written elsewhere, perhaps for something else as well."""
    file = tmp_path / "rates.yaml"
    file.write_text(own)
    with pytest.raises(ConfigError, match=message):
        merge(best(table([(1e-05, 0, 0.9), (0.01, 0, 0.1)])), file)
    assert (file.read_text(), [path.name for path in tmp_path.iterdir()]) == (own, ["rates.yaml"])


def test_a_sweep_on_reported_items_may_not_choose(tmp_path: Path) -> None:
    """The items that choose a rate must not be the reported ones."""
    experiment = ExperimentWriter(tmp_path / "x")
    experiment.write_config("a", {"evaluation": {"items": "report"}})
    with pytest.raises(RecordError, match="select items"):
        require_select(experiment)
