"""Suites: what is measured, as declared by ``benchmarks/suites/*.yaml``.

And which items of a task a suite uses.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.config import paths
from harness.config.composition import load_yaml
from harness.config.strict import Part, build, check, plain
from harness.core.errors import ConfigError, EvaluationError, did_you_mean, explain
from harness.core.rows import Split
from harness.core.seeds import permutation
from harness.records.schema import OWN_METRICS

ITEM_SEED = 0
"""Items are chosen once for everybody, so that scores of different experiments are of the same
items."""


@dataclass(frozen=True, kw_only=True)
class Suite(Part):
    """A set of tasks judged by one metric.

    Attributes:
        kind: ``lm_eval``: its tasks; ``likelihood``: gold answers; ``divergence``: how far the
            model is from its base.
        tasks: lm-eval task or group names (``kind: lm_eval``); a group stands for its leaf tasks.
        data, split: rows that the other kinds score: a member of conf/data, or ``target`` or
            ``anchor``, which are the run's own.
        text: whose answers to the rows' prompts a divergence suite is on: the ``gold`` ones, or
            sampled by the ``base`` or ``tuned`` model.
        max_new_tokens: length at which sampled text is cut, in tokens.
        metric, filter: the primary metric, as lm-eval (or ``OWN_METRICS``) names it.
        chance: ``choices`` (1 / number of choices of each item), a number in 0..1, or null where
            guessing has no level, or one that follows from the metric and the model: of
            ``nats_per_token``, ln(vocabulary).
        report: items of a task that are reported, null for all; ``select``: further ones, on which
            things may be chosen.
        overlap: ``expected`` where the suite asks for the very rows that are taught.
        protocols: how each multiple-choice item is asked; ``generation``: also by letting the model
            write the answer, reported apart.
        cluster: field of a task's documents, such as ``passage``: items alike in it belong
            together, and intervals heed it. A document without the field has no cluster. Or leaf
            task → its field, where tasks have others; a task that is not named has none.
    """

    name: str
    kind: Literal["lm_eval", "likelihood", "divergence"] = "lm_eval"
    tasks: tuple[str, ...] = ()
    data: str | None = None
    split: Split = "test"
    text: Literal["gold", "base", "tuned"] = "gold"
    max_new_tokens: int | None = None
    num_fewshot: int = 0
    metric: str
    filter: str = "none"
    higher_is_better: bool = True
    chance: Any = "choices"
    report: int | None = None
    select: int = 0
    overlap: Literal["report", "expected"] = "report"
    protocols: tuple[Literal["loglikelihood", "generation"], ...] = ("loglikelihood",)
    cluster: Any = None

    def __post_init__(self) -> None:
        """Check ranges and that the kind has what it needs."""
        where = f"suite {self.name}"
        is_level = isinstance(self.chance, int | float) and not isinstance(self.chance, bool) and 0 <= self.chance <= 1
        check(f"{where}: chance", self.chance, "choices, null, or a number in [0, 1]", lambda v: v is None or v == "choices" or is_level)
        check(f"{where}: report", self.report, "null or greater than 0", lambda v: v is None or v > 0)
        check(f"{where}: select", self.select, "0 or greater", lambda v: v >= 0)
        check(f"{where}: num_fewshot", self.num_fewshot, "0 or greater", lambda v: v >= 0)
        protocols = [["loglikelihood"], *([["loglikelihood", "generation"]] if self.kind == "lm_eval" else [])]
        allowed = " or ".join(f"[{', '.join(one)}]" for one in protocols)
        check(f"{where}: protocols", list(self.protocols), allowed, lambda value: value in protocols)
        check(f"{where}: cluster", self.cluster, "nothing for a suite that scores rows", lambda v: v is None or self.kind == "lm_eval")
        allowed = "the name of a field, or a mapping of leaf tasks to such names"
        check(f"{where}: cluster", self.cluster, allowed, lambda v: v is None or _is_cluster(v))
        if self.kind == "lm_eval" and not self.tasks:
            raise ConfigError(explain(f"{where}: tasks", got="none", allowed="at least one lm-eval task name"))
        if self.kind != "lm_eval":
            self._check_own(where)

    def _check_own(self, where: str) -> None:
        """Check what only the kinds have that lm-eval does not know."""
        if not self.data:
            raise ConfigError(explain(f"{where}: data", got="nothing", allowed="a member of conf/data, target or anchor"))
        metrics = OWN_METRICS[self.kind]
        fix = did_you_mean(self.metric, metrics)
        check(f"{where}: metric", self.metric, ", ".join(metrics), lambda value: value in metrics, fix)
        higher = metrics[self.metric]
        check(f"{where}: higher_is_better", self.higher_is_better, f"{higher} for {self.metric}", lambda value: value is higher)
        check(f"{where}: text", self.text, "gold for a likelihood suite", lambda value: value == "gold" or self.kind == "divergence")
        samples = self.text != "gold"
        allowed = "greater than 0 for sampled text" if samples else "nothing for gold text"
        check(f"{where}: max_new_tokens", self.max_new_tokens, allowed, lambda v: v is not None and v > 0 if samples else v is None)

    @property
    def filter_name(self) -> str:
        """What tells its scores from others of the same task and metric: lm-eval's filter, or whose text a divergence suite is on."""
        return self.text if self.kind == "divergence" else self.filter

    def identity(self) -> dict[str, Any]:
        """Return what decides its scores and is known without building its tasks: the yaml, lm-eval's version, our task files."""
        unused = {"overlap"} | (set() if self.kind == "divergence" else {"text", "max_new_tokens"})
        unused |= {"cluster"} if self.cluster is None else set()  # so that suites from before there were clusters keep their identity
        values: dict[str, Any] = {key: value for key, value in plain(self).items() if key not in unused}
        if self.kind != "lm_eval":
            values["metrics"] = list(OWN_METRICS[self.kind])
        else:
            values["lm_eval"] = importlib.metadata.version("lm_eval")
            values["task_files"] = _own_task_files(self.tasks)
        return values


def load(name: str) -> Suite:
    """Read a suite by name. Raises ConfigError naming the suites there are."""
    known = paths.members("benchmarks/suites")
    if name not in known:
        raise ConfigError(explain("suite", got=repr(name), allowed=", ".join(known), fix=did_you_mean(name, known)))
    suite: Suite = build(Suite, load_yaml(known[name]) | {"name": name}, f"suite {name}")
    return suite


def _is_cluster(value: Any) -> bool:
    parts = [*value, *value.values()] if isinstance(value, Mapping) else [value]
    return bool(parts) and all(isinstance(part, str) and part for part in parts)


def task_folders() -> list[Path]:
    """Return the folders of lm-eval task files that are ours or the user's own."""
    return paths.folders("benchmarks/tasks")


def _own_task_files(tasks: tuple[str, ...]) -> Mapping[str, str]:
    """Hash the folders of our own (and the user's) task files that define these tasks, groups or tags, every file in them.

    A task's yaml may include others, call Python or read data beside it. lm-eval's own files follow
    from its version.
    """
    names = "|".join(re.escape(task) for task in tasks)
    defines = re.compile(rf"^\s*-?\s*(task|group|tag):\s*[\"']?({names})[\"']?\s*$", re.MULTILINE)
    hashes: dict[str, str] = {}
    for root in task_folders():
        for folder in sorted({file.parent for file in root.rglob("*.yaml") if defines.search(file.read_text(encoding="utf-8"))}):
            digest = hashlib.sha256()
            for part in sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
                digest.update(part.relative_to(folder).as_posix().encode() + b"\0" + part.read_bytes())
            hashes[folder.name] = digest.hexdigest()[:16]
    return hashes


def choose(suite: Suite, task: str, size: int, doc_hash: Callable[[int], str], role: Literal["report", "select"]) -> list[int]:
    """Choose the items of a task: seeded, without repeats of a document, ``select`` and ``report`` disjoint.

    Args:
        suite: whose ``select`` and ``report`` numbers apply.
        task: leaf task, or data set, name.
        size: number of its documents.
        doc_hash: document number → content hash.
        role: which of the two sets.

    Returns:
        Ascending document numbers.
    """
    if role == "select" and not suite.select:
        fix = f"give benchmarks/suites/{suite.name}.yaml a select: number"
        raise EvaluationError(explain(f"suite {suite.name}: select", got="0 items", allowed="some items to choose on", fix=fix))
    wanted = size if suite.report is None else suite.select + suite.report
    kept: list[int] = []
    seen: set[str] = set()
    for index in permutation(ITEM_SEED, size, "items", task):
        if len(kept) == wanted:
            break
        if (content := doc_hash(index)) not in seen:
            seen.add(content)
            kept.append(index)
    chosen = kept[: suite.select] if role == "select" else kept[suite.select :]
    if not chosen:
        allowed = f"more than the {suite.select} items kept for selection"
        raise EvaluationError(explain(f"suite {suite.name}, task {task}", got=f"{len(kept)} distinct items", allowed=allowed))
    return sorted(chosen)
