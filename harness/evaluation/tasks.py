"""lm-eval's tasks, built once per process, with the smallest index that suffices."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from harness.core.errors import EvaluationError, did_you_mean, explain, once_online
from harness.core.seeds import derive, seed_torch, untouched_global_streams
from harness.evaluation import task_index, trust
from harness.evaluation.samples import averaged_metrics
from harness.evaluation.suites import Chosen, Suite, choose
from harness.models.weights import first_line
from harness.records.schema import GENERATED, cluster_field, cluster_of

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

FEWSHOT_SEED = 1234
"""lm-eval's default, passed explicitly."""

GENERATED_METRIC = "exact_match"
"""Metric of answers to items asked by generation."""

BYTES_PER_TOKEN, SPARE_TOKENS = 3, 4
"""Limit of a generated answer: one token per BYTES_PER_TOKEN bytes of the longest choice in UTF-8,
and SPARE_TOKENS more."""


def build_tasks(suite: Suite) -> dict[str, Task]:
    """Build the leaf tasks of a suite, their data loaded, by name.

    Raises:
        EvaluationError: if a task does not exist, is not trusted, its data cannot be loaded, or it
            lacks the metric.
    """
    tasks: dict[str, Task] = {}
    for name in suite.tasks:
        manager = _manager_for(suite, name)
        trusted = trust.only_trusted(manager.task_index, name)
        with trusted, untouched_global_streams(), _explained(f"suite {suite.name}, task {name}"):
            seed_torch(derive(0, "tasks", name))  # some tasks shuffle choices while they are built
            tasks.update(manager.load([name])["tasks"])
    for name, task in tasks.items():
        _set_shots(suite, name, task)
        _check_metric(suite, name, task)
    return tasks


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turn what lm-eval raises while it builds a task into an EvaluationError of one line."""
    from jinja2 import TemplateError

    from harness.core.sandbox import INVALID, reason

    try:
        yield
    except EvaluationError:
        raise
    except (TemplateError, *INVALID) as error:
        got, fix = f"a template that fails ({reason(error)})", "correct its yaml: doc_to_text, doc_to_choice or doc_to_target"
        raise EvaluationError(explain(where, got=got, fix=fix)) from error
    except Exception as error:
        allowed = "a task that lm-eval can build, with data that can be loaded"
        raise EvaluationError(explain(where, got=first_line(error), allowed=allowed, fix=_way_out(error))) from error


def _way_out(error: Exception) -> str:
    """Return the command that helps where a package or the network is missing, else advice."""
    import huggingface_hub

    if isinstance(error, ImportError):
        if named := re.search(r"lm[-_]eval\[(\w+)\]", str(error)):
            return f"pip install 'lm-eval[{named[1]}]'"
        package = str(error.name or "").partition(".")[0]
        extras = (re.search(r"extra == ['\"]([\w-]+)", line) for line in _requirements() if re.match(rf"{re.escape(package)}\b", line))
        extra = next((found[1] for found in extras if found), "")
        return f"pip install 'lm-eval[{extra}]'" if extra else f"install {package or 'what it names'}, or correct the import"
    if huggingface_hub.constants.HF_HUB_OFFLINE and any(words in f"{error!r}" for words in ("Offline", " Hub", "LocalEntryNotFound")):
        return once_online("check HF_HOME, which holds the data")
    return "correct its yaml; or check the network, or HF_HOME and HF_HUB_OFFLINE on a machine without a hub"


def _requirements() -> list[str]:
    """Return the requirements of lm-eval's extras, without those of all tasks together."""
    return [line for line in importlib.metadata.requires("lm_eval") or [] if "extra ==" in line and '"all"' not in line]


def _manager_for(suite: Suite, name: str) -> TaskManager:
    manager = task_index.manager_for(name, forced=suite.name.startswith(task_index.FORCED))
    if manager is None:
        allowed = "a task, group or tag of lm-eval or of benchmarks/tasks"
        raise EvaluationError(explain("task", got=repr(name), allowed=allowed, fix=did_you_mean(name, task_index.names())))
    return manager


def read_only(task: Task, items: Sequence[int]) -> None:
    """Let a task read the documents of some items alone.

    lm-eval would read all of the data to find them, twice per evaluation.
    """
    docs = task.eval_docs
    chosen = [docs[index] for index in items]
    task.doc_iterator = lambda **_: enumerate(chosen)


def generated(suite: Suite, name: str, task: Task, items: Sequence[int]) -> Task:
    """Build a task that asks the items of a multiple-choice task by generation.

    The prompt is the same, and the model writes the answer. The answer is its first line, up to a
    separate full stop (as in tinyworld), at most about as long as the longest choice; it is right
    if it is the gold choice, apart from case, white space at its ends and a full stop.

    Args:
        suite: its protocols ask for it.
        name: of the multiple-choice task.
        task: that task, built.
        items: the document numbers it asks.

    Raises:
        EvaluationError: if the task's choices do not all continue one prompt.
    """
    from lm_eval.api.task import ConfigurableTask

    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input or task.config.doc_to_choice is None:
        where = f"suite {suite.name}, task {name}: protocols"
        raise EvaluationError(explain(where, got="generation", allowed="loglikelihood: its choices do not all continue one prompt"))
    docs = task.eval_docs
    longest = max(len(choice.encode()) for index in items for choice in task.doc_to_choice(docs[index]))

    def gold(doc: Any) -> Any:
        choices, target = task.doc_to_choice(doc), task.doc_to_target(doc)
        texts = [choices[one] if isinstance(one, int) else str(one) for one in (target if isinstance(target, list) else [target])]
        return texts if isinstance(target, list) else texts[0]

    match = {"metric": GENERATED_METRIC, "aggregation": "mean", "higher_is_better": True, "ignore_case": True}
    changes = {
        "task": f"{name}{GENERATED}",
        "output_type": "generate_until",
        "doc_to_choice": None,
        "doc_to_target": gold,
        "generation_kwargs": {"until": ["\n", " ."], "max_gen_toks": SPARE_TOKENS + longest // BYTES_PER_TOKEN, "do_sample": False},
        "metric_list": [match | {"regexes_to_ignore": [r"^\s+", r"\s*\.?\s*$"]}],
        "filter_list": None,
        "process_results": None,
    }
    built: Task = ConfigurableTask(config=dict(vars(task.config)) | changes)
    return built


def _set_shots(suite: Suite, name: str, task: Task) -> None:
    if suite.num_fewshot is None:
        return
    own = task.get_config("num_fewshot")
    if own == 0 and suite.num_fewshot:
        allowed = "0: lm-eval defines this task zero-shot"
        fix = "num_fewshot: 0, or null for each task's own number"
        raise EvaluationError(explain(f"suite {suite.name}, task {name}: num_fewshot", got=suite.num_fewshot, allowed=allowed, fix=fix))
    task.set_config(key="num_fewshot", value=suite.num_fewshot)


def _check_metric(suite: Suite, name: str, task: Task) -> None:
    metrics = list(map(str, averaged_metrics(task)))  # yaml has numbers for names, too
    if suite.metric not in metrics:
        fix = did_you_mean(suite.metric, metrics)
        raise EvaluationError(
            explain(f"suite {suite.name}, task {name}: metric", got=repr(suite.metric), allowed=", ".join(metrics), fix=fix)
        )
    filters = [item.name for item in getattr(task, "_filters", [])] or ["none"]
    if suite.filter not in filters:
        fix = did_you_mean(suite.filter, filters) or f"filter: {filters[0]}"
        raise EvaluationError(
            explain(f"suite {suite.name}, task {name}: filter", got=repr(suite.filter), allowed=", ".join(filters), fix=fix)
        )


def chosen_items(suite: Suite, task: Task, role: Literal["report", "select"], limit: int | None = None) -> Chosen:
    """Return the document numbers of a task that the suite uses in a role, at most ``limit``."""
    docs = task.eval_docs
    name = str(task.config.task)
    field = cluster_field(suite.cluster, name)
    cluster = None if field is None else lambda index: cluster_of(docs[index], field)
    return choose(suite, name, len(docs), lambda index: doc_hash(docs[index]), role, limit, cluster)


def doc_hash(doc: Any) -> str:
    """Return the hash of a document exactly as lm-eval computes it for its samples."""
    from lm_eval.utils import handle_non_serializable, hash_string

    return str(hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)))
