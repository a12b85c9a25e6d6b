"""Trust in task files: which yaml files and functions may decide what lm-eval runs.

A task file can call Python (``!function``, ``class``). Those of ``benchmarks/``, of the folders of
``HARNESS_PATH`` and of the installed lm-eval are trusted; a file from elsewhere, which ``include``,
``!function`` or a link may name, is not. Checked before lm-eval reads the files for a task;
metrics, whose code lm-eval would load if it does not know them, while it builds the task.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from harness.config import outside, paths
from harness.core.errors import EvaluationError, explain

FUNCTION = "!function"
"""Tag of a Python function in lm-eval's yaml."""


@contextmanager
def only_trusted(index: Mapping[str, Any], name: str) -> Iterator[None]:
    """Let lm-eval build a task in this block from trusted files, functions and metrics only.

    lm-eval's own tasks are built as installed.

    Args:
        index: lm-eval's entries by name.
        name: of a task, group or tag.

    Raises:
        EvaluationError: it runs code or reads yaml from elsewhere.
    """
    if os.environ.get(paths.TRUST_TASKS) == "1":
        yield
        return
    folders, lm_eval = _trusted(), _folder_of("lm_eval")
    files = dict(_files(index, name, set()))
    theirs = [task for task, file in files.items() if file.resolve().is_relative_to(lm_eval)]
    others = [task for task in files if task not in theirs]
    seen: set[Path] = set()
    for task in others:
        _check_file(task, files[task], [*folders, lm_eval], seen)
    metrics = [metric for task in theirs for metric in (index[task].cfg or {}).get("metric_list") or []]
    fetched = {metric["metric"] for metric in metrics if metric.get("hf_evaluate")}
    with _known_metrics(name, fetched) if others else nullcontext():
        yield


@contextmanager
def _known_metrics(task: str, fetched: Collection[Any]) -> Iterator[None]:
    """Let lm-eval find its own metrics and aggregations, and load only those in ``fetched``."""
    from lm_eval.api import registry
    from lm_eval.api import task as tasks

    theirs = tasks.get_metric, tasks.get_aggregation

    def get_metric(name: str, hf_evaluate_metric: bool = False) -> Any:
        if (hf_evaluate_metric or name not in registry.metric_registry) and name not in fetched:
            raise _unknown(task, "metric", f"{name!r}{', with hf_evaluate' if hf_evaluate_metric else ''}")
        return theirs[0](name, hf_evaluate_metric)

    def get_aggregation(name: str) -> Any:
        if name not in registry.aggregation_registry:
            raise _unknown(task, "aggregation", repr(name))
        return theirs[1](name)

    tasks.get_metric, tasks.get_aggregation = get_metric, get_aggregation
    try:
        yield
    finally:
        tasks.get_metric, tasks.get_aggregation = theirs


def _unknown(task: str, what: str, got: str) -> EvaluationError:
    allowed = f"lm-eval's own, {FUNCTION} of a trusted file, or any name with process_results: code of another would be loaded and run"
    return EvaluationError(explain(f"task {task}", got=f"{what} {got}", allowed=allowed, fix="--trust-tasks if you trust it"))


def _trusted() -> list[Path]:
    """Return the trusted folders next to lm-eval's: those of users whole, ours without results."""
    *own, shipped = paths.roots()
    return [*own, *((folder / "benchmarks").resolve() for folder in (*own, shipped)), _folder_of("harness")]


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve().parent


def _files(index: Mapping[str, Any], name: str, seen: set[str]) -> Iterator[tuple[str, Path]]:
    """Yield the names and yaml files of a task, or of a group and all its members."""
    if name in seen or name not in index:
        return
    seen.add(name)
    entry = index[name]
    if entry.yaml_path is not None:
        yield name, entry.yaml_path
    members = sorted(entry.tags) if entry.kind.name == "TAG" else (entry.cfg or {}).get("task")
    for member in _names(members):
        yield from _files(index, member, seen)


def _names(members: Any) -> Iterator[str]:
    """Yield the names in a group's list, those of groups inside the list included."""
    for item in members if isinstance(members, list) else []:
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            yield from (str(item[key]) for key in ("task", "group") if isinstance(item.get(key), str))
            yield from _names(item.get("task"))


def _check_file(task: str, file: Path, folders: list[Path], seen: set[Path]) -> None:
    """Check a yaml file, what it includes, and the functions that it names."""
    file = file.resolve()
    if file in seen:
        return
    seen.add(file)
    _require_inside(task, f"yaml file '{file}'", file, folders)
    includes, functions = _named(task, file)
    for function in functions:
        module, _, name = function.rpartition(".")
        beside = (file.parent / f"{module.replace('.', '/')}.py").resolve()  # as lm-eval looks for it
        found = beside if beside.exists() else outside.file_of(module)
        if found is not None or importlib.util.find_spec(module.partition(".")[0] or "_"):
            _require_inside(task, f"{FUNCTION} {name} of '{found or module}'", found, folders)
    for include in includes:
        _check_file(task, file.parent / include, folders, seen)


def _named(task: str, file: Path) -> tuple[list[str], list[str]]:
    """Return what a yaml file includes, and the functions it names, as lm-eval reads it."""
    from lm_eval.tasks import _yaml_loader

    functions: list[str] = []

    def noted(loader: Any, node: yaml.Node) -> str:
        functions.append(str(loader.construct_scalar(node)))
        return functions[-1]

    loader = _yaml_loader._make_loader(file.parent, resolve_funcs=False)
    loader.add_constructor(FUNCTION, noted)
    try:
        with file.open("rb") as stream:
            values = yaml.load(stream, loader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        got = f"'{file}', a file that is not yaml ({str(error).splitlines()[0]})"
        raise EvaluationError(explain(f"task {task}", got=got)) from error
    given = values.get("include", []) if isinstance(values, Mapping) else []
    return [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)], functions


def _require_inside(task: str, what: str, file: Path | None, folders: list[Path]) -> None:
    if file is None or not any(file.resolve().is_relative_to(folder) for folder in folders):
        allowed = "files in benchmarks/, in folders of HARNESS_PATH and in lm-eval: a task file can run code"
        fix = "move it there, or --trust-tasks if you trust it"
        raise EvaluationError(explain(f"task {task}", got=what, allowed=allowed, fix=fix))
