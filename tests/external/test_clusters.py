"""Clusters of lm-eval's items, from this project's suites: the same interval as from models."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.cli import app
from harness.config import paths
from harness.config.yaml_files import load_yaml
from harness.external import logged, ours
from tests.support.lm_eval_logs import Run, Sample, choice, lines, sides

PASSAGES, EACH = 20, 5


def _passages(*, has_field: bool = True) -> tuple[list[Sample], list[Sample]]:
    """100 questions, five on each of 20 passages.

    All are right before; after, those of every fifth passage are wrong.
    """
    before = [choice(i, right=True) for i in range(PASSAGES * EACH)]
    for i, sample in enumerate(before):
        sample["doc"] = {"question": f"q{i}", **({"passage": f"text {i // EACH}"} if has_field else {})}
    after = [
        sample | {key: choice(i, right=(i // EACH) % 5 != 0)[key] for key in ("acc", "resps", "filtered_resps")}
        for i, sample in enumerate(before)
    ]
    return before, after


def test_boolq_is_clustered_by_its_passages(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The standard error over passages, by hand; p from one sign per passage.

    Its square is the sum of squared residuals of passages, times G/(G − 1), over n²; the interval
    is never narrower. One sign per passage, all four equal: p is 2/2⁴. The same items under a name
    that no suite has are independent: McNemar's p of 20 items of one sign is 2/2²⁰.
    """
    before, after = _passages()
    sides(tmp_path, {"boolq": before}, {"boolq": after})
    values = json.loads(run("--json")[1])
    change = np.repeat([-1.0 if i % 5 == 0 else 0.0 for i in range(PASSAGES)], EACH)
    sums = (change - change.mean()).reshape(PASSAGES, EACH).sum(axis=1)
    error = math.sqrt(PASSAGES / (PASSAGES - 1) * float(np.sum(sums**2))) / len(change)
    (task,) = values["tasks"]
    assert 0.999 * error < task["stderr"] < 1.3 * error
    assert task["p_value"] == pytest.approx(2 / 2**4, abs=0.02)
    assert task["p_mid"] is None
    assert not any("independent" in note for note in values["notes"])
    sides(tmp_path / "other", {"strange": before}, {"strange": after})
    assert app.main(["compare", str(tmp_path / "other" / "before"), str(tmp_path / "other" / "after"), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)["tasks"][0]
    assert alone["p_value"] == pytest.approx(2 / 2**20)
    assert alone["delta_high"] - alone["delta_low"] < 0.6 * (task["delta_high"] - task["delta_low"])


def test_the_hash_is_that_of_measured_samples(tmp_path: Path) -> None:
    lines(tmp_path / "x.jsonl", [choice(0, right=True) | {"doc": {"passage": "a text"}}, choice(1, right=True)])
    found = logged.rows(tmp_path / "x.jsonl", "boolq", "passage")["cluster"].tolist()
    assert found[0] == hashlib.sha256(b"a text").hexdigest()[:12]
    assert pd.isna(found[1])


def test_documents_without_the_field_have_a_note(tmp_path: Path, run: Run) -> None:
    before, after = _passages(has_field=False)
    sides(tmp_path, {"boolq": before}, {"boolq": after})
    notes = json.loads(run("--json")[1])["notes"]
    assert any(note.startswith("boolq: this project's suites cluster its items by passage, which the documents") for note in notes)


def test_tasks_outside_this_projects_suites_have_a_note(tmp_path: Path, run: Run) -> None:
    """Piqa is in a suite without clusters; those of the other task are unknown."""
    items = [choice(i, right=True) for i in range(4)]
    sides(tmp_path, {"piqa": items, "strange": items}, {"piqa": items, "strange": items})
    notes = json.loads(run("--json")[1])["notes"]
    assert [note.split(":")[0] for note in notes if "independent" in note] == ["no suite of this project contains strange"]


def test_a_mapping_names_the_field_of_each_task() -> None:
    """german.yaml has one field per task; boolq.yaml one for all."""
    assert ours.cluster("belebele_deu_Latn", []) == "flores_passage"
    assert ours.cluster("xnli_de", []) == "premise"
    assert ours.cluster("xstorycloze_zh", []) is None
    assert ours.is_known("xstorycloze_zh", [])
    assert ours.cluster("boolq", []) == "passage"


def test_fields_of_belebele_and_xnli_are_those_of_their_prompts() -> None:
    """Read from lm-eval's task files, since the data need the hub."""
    pytest.importorskip("lm_eval", reason="its task files come with the extra `measure`")
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    files = {"belebele": "belebele/_default_template_yaml", "xnli": "xnli/xnli_de.yaml"}
    for suite in ("german", "chinese"):
        for task, field in load_yaml(paths.members("benchmarks/suites")[suite])["cluster"].items():
            assert field in (root / files[task.split("_")[0]]).read_text(encoding="utf-8")
