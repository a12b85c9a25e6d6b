"""The harness in Python: results as pandas tables, one run, one comparison.

    import harness

    results = harness.load("results/tiny")
    results.findings()                           # a row for each method, volume, suite and task
    results.table()                              # a row for each run, volume, task and metric
    results.items()                              # the items that were lost or gained

    harness.train(["tuning=lora", "name=mine"])  # as `harness run tuning=lora name=mine`
    harness.compare("runs/base", "runs/tuned")   # as `harness compare runs/base runs/tuned`

Every error is a ``harness.HarnessError`` with a message of one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core import extras
from harness.core.display import OUTPUT, quieted
from harness.core.errors import ConfigError, TrainingError, explain

if TYPE_CHECKING:
    import pandas as pd

    from harness.records.store import Experiment


@dataclass(frozen=True)
class Results:
    """The results of an experiment on disk; each method reads them anew.

    Attributes:
        experiment: its records, to read.
    """

    experiment: Experiment

    def __repr__(self) -> str:
        return f"Results('{self.folder}')"

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.experiment.name

    @property
    def folder(self) -> Path:
        """The folder of its results."""
        return self.experiment.folder

    def table(self, *, stale: bool = False) -> pd.DataFrame:
        """Return the tidy table: one row for each run, volume, task and metric.

        Args:
            stale: whether to include runs that the last command did not ask for.

        Returns:
            Columns as ``harness.analysis.table.columns.DESCRIPTIONS`` explains them.

        Raises:
            RecordError: if a record is damaged or of another version.
        """
        from harness.analysis.table.frame import table

        return table(self.experiment, stale=stale)

    def findings(self) -> pd.DataFrame:
        """Return the findings: the change of each method, volume, suite and task over its seeds.

        Returns:
            Columns as ``harness.analysis.findings.finding_columns.DESCRIPTIONS`` explains them:
            ``delta`` with its interval ``delta_low`` and ``delta_high``, ``verdict``, and more; in
            the order of the page.

        Raises:
            RecordError: if a record is damaged or of another version.
        """
        from harness.report.evidence import measured

        return measured(self.experiment).findings

    def items(self, *, run_id: str | None = None, volume: int | None = None) -> pd.DataFrame:
        """Return the items that were right before and wrong after (lost), or the reverse (gained).

        Args:
            run_id: only this run; None is every recorded run.
            volume: only this volume; None is each run's largest.

        Returns:
            ``run_id``, ``volume``, ``role``, then suite, task, prompt, target, answers and
            confidence before and after, and ``outcome``; by run, the largest loss of confidence
            first. Only items of metrics that are 0 or 1.

        Raises:
            RecordError: if there is no such run or volume, or a record is damaged.
        """
        from harness.analysis.table.items import items_of_runs

        return items_of_runs(self.experiment, self.table(), run_id=run_id, volume=volume)


def load(where: str | Path, results: str | Path | None = None) -> Results:
    """Return the results of an experiment.

    Args:
        where: the path of its folder, such as ``"results/tiny"``, or its name.
        results: the folder in which the name is looked up; None is ``results``.

    Raises:
        RecordError: if there are no such results.
        ConfigError: if a path is given together with ``results``.
    """
    from harness.records.locate import locate

    return Results(locate(where, results))


def train(overrides: Sequence[str] = (), *, quiet: bool = False) -> Results:
    """Train and evaluate one run in this process, as ``harness run`` does.

    A finished run is not repeated, an interrupted one resumes.

    Args:
        overrides: as on the command line, such as ``["tuning=lora", "data.volumes=[64,256]"]``.
        quiet: whether to show no progress.

    Returns:
        The results of the run's experiment.

    Raises:
        ConfigError: if a key, value or combination is not allowed.
        TrainingError: if the run failed; its traceback is in the results.
        HarnessError: if a model, data or a suite cannot be loaded.
        KeyboardInterrupt: after its work was saved; the same call resumes it.
    """
    extras.require("train", "train")
    _require_list("train: overrides", overrides, '["tuning=lora"]')
    with quieted(), OUTPUT.set(quiet=quiet):
        from harness.records.provenance import made_by
        from harness.sweep import command

        with made_by(["run", *overrides]):
            started, tally = command.run(overrides)
    if tally.failed:
        label, reason = tally.failed[0]
        raise TrainingError(f"run {label}: {reason}; its traceback is in {started.experiment.folder}/runs/*/failure.json")
    return load(started.experiment.folder)


def compare(
    before: str | Path,
    after: str | Path,
    *,
    suites: Sequence[str] = (),
    margin: float = 0.02,
    overrides: Sequence[str] = (),
    quiet: bool = False,
) -> pd.DataFrame:
    """Compare two models, or the logs of two, item by item.

    Args:
        before: a model (folder, name of the hub, NAME@REVISION, adapter) or a folder of lm-eval's
            ``--log_samples`` output, or a file or folder of inspect_ai's logs.
        after: as ``before``.
        suites: suites that two models are measured on; none for logs.
        margin: a change within ±margin, in the metric's own unit, is negligible.
        overrides: for two models, such as ``["evaluation.dtype=bfloat16"]``.
        quiet: whether to show no progress.

    Returns:
        One row for each suite (task ``*``) and task: before, after, delta with its interval, lost,
        gained, p-values, verdict. Its ``attrs`` have ``before``, ``after`` and ``notes``.
        Measurements of models are kept in ``results/compare``, for the next comparison.

    Raises:
        HarnessError: if the two cannot be compared, with the reason.
    """
    _require_list("compare: suites", suites, '["blimp"]')
    _require_list("compare: overrides", overrides, '["evaluation.dtype=bfloat16"]')
    with quieted(), OUTPUT.set(quiet=quiet):
        from harness.external import command, judge

        found = command.compare(str(before), str(after), suites=",".join(suites), margin=margin, overrides=overrides)
    frame = judge.as_shown(found.rows)
    frame.attrs = {"before": found.before.name, "after": found.after.name, "notes": list(found.notes)}
    return frame


def _require_list(what: str, given: Sequence[str], example: str) -> None:
    """Reject a single text, which is a sequence of letters. Raises ConfigError."""
    if isinstance(given, str):
        raise ConfigError(explain(what, got=repr(given), allowed=f"a list, such as {example}"))
