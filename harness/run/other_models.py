"""Models of a run: the reference model, those of its methods, and those that are yet to be made."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, cast

import psutil

from harness.config import paths
from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError, ModelError, explain
from harness.core.progress import Progress
from harness.core.sources import ModelSource
from harness.models import loading
from harness.models.hub import HubModel
from harness.models.nursery.family import Nursery
from harness.records import provenance

if TYPE_CHECKING:
    from harness.run.workspace import Workspace


def reference_of(config: RunConfig, workspace: Workspace) -> ModelSource | None:
    """Return the reference model, or None if it equals the start model.

    Raises:
        ConfigError: if the reference model cannot be evaluated like the start model, because of
            another vocabulary or a shorter context, or if a suite measures the distance from the
            start model.
    """
    if config.reference is None or workspace.facts_of_model(config.reference).content == workspace.facts_of(config).content:
        return None
    where, allowed = f"reference={config.labels.reference}", f"a model with the vocabulary and context of model={config.labels.model}"
    if _vocabulary(workspace, config.reference) != _vocabulary(workspace, config.model):
        raise ConfigError(explain(where, got="a model with another vocabulary", allowed=allowed))
    own, needed = workspace.facts_of_model(config.reference).context_length, workspace.facts_of(config).context_length
    if own < needed:
        raise ConfigError(explain(where, got=f"a context of {own} tokens", allowed=f"{allowed}, at least {needed} tokens"))
    for name in (*config.target_suites, *config.probe_suites):
        if workspace.suite(name).kind == "divergence":
            got, fix = f"suite {name}, the distance from the start model", "no reference, or no suite of kind divergence"
            raise ConfigError(explain(where, got=got, allowed="suites that measure one model at a time", fix=fix))
    return config.reference


def of_methods(config: RunConfig, workspace: Workspace) -> dict[str, ModelSource]:
    """Return the other models that a run's methods need, by their names in conf/model.

    Judges and authors exchange text and may have any tokenizer. Models whose weights are combined
    must have the tokens and layers of the start model.

    Raises:
        ConfigError: for a model that is not in conf/model, or whose weights cannot be combined.
    """
    found = {name: _member(workspace, name) for name in _named(config)}
    for name in config.mitigation.models if config.mitigation.coefficients else ():
        where, allowed = f"mitigation={config.labels.mitigation}: model {name}", f"those of model={config.labels.model}"
        if _vocabulary(workspace, found[name]) != _vocabulary(workspace, config.model):
            got = "other tokens, or in another order"
            raise ConfigError(explain(where, got=got, allowed=allowed, fix="models of one tokenizer"))
        if workspace.facts_of_model(found[name]).linear != workspace.facts_of(config).linear:
            raise ConfigError(explain(where, got="layers of other sizes", allowed=allowed, fix="models of one architecture"))
    return found


def _vocabulary(workspace: Workspace, model: ModelSource) -> dict[str, int]:
    """Return token → id of a model's tokenizer, read once."""
    return workspace.once(("vocabulary", type(model), repr(model)), lambda: dict(model.tokenizer().get_vocab()))


def every(config: RunConfig, workspace: Workspace) -> dict[str, ModelSource]:
    """Return the reference model and the models of methods, by name.

    Names that are not in conf/model are left out, because preparation reports them.
    """
    found = {str(config.labels.reference): config.reference} if config.reference is not None else {}
    known = paths.members("conf/model")
    return found | {name: _member(workspace, name) for name in _named(config) if name in known}


def _named(config: RunConfig) -> list[str]:
    return list(dict.fromkeys((*config.mitigation.models, *config.objective.models)))


def _member(workspace: Workspace, name: str) -> ModelSource:
    found: ModelSource = workspace.once(("member model", name), lambda: loading.member(name))
    return found


def make(configs: Iterable[RunConfig], workspace: Workspace, progress: Progress) -> bool:
    """Pretrain the nursery models that this machine lacks or that are damaged on it.

    Their weights identify runs.

    Returns whether any was made: what was read of it before is outdated.

    Raises ModelError.
    """
    missing: dict[Hashable, Nursery] = {}
    seen: set[Hashable] = set()
    for config in configs:
        for model in (config.model, *every(config, workspace).values()):
            if (asked := (type(model), repr(model))) in seen:
                continue
            seen.add(asked)
            made = model.base_model() if isinstance(model, HubModel) else model
            if isinstance(made, Nursery) and not made.is_made:
                made.require_whole()
                missing[type(made), repr(made)] = made
    if not missing:
        return False
    for damage in filter(None, (model.damage for model in missing.values())):
        progress.say(damage)
    if new := sum(not model.has_weights for model in missing.values()):
        progress.say(f"pretraining {new} model{'' if new == 1 else 's'} of the nursery, once: minutes")
    progress.stage(f"pretrain {len(missing)} model{'' if len(missing) == 1 else 's'} of the nursery, once", len(missing))
    processes = min(len(missing), provenance.cores())
    with ThreadPoolExecutor(processes) as pool:
        for ended in as_completed([pool.submit(_load_apart, model) for model in missing.values()]):
            ended.result()
            progress.advance()
    return True


TRIES, LOOK, STOPPED = 3, 1.0, 30.0
"""Processes that are killed before a model fails, seconds between two looks at one, and seconds
that it may stay stopped."""

_LOAD = "import pickle, sys; path, model = pickle.load(sys.stdin.buffer); sys.path[:] = path; pickle.loads(model).load()"


def _load_apart(model: ModelSource) -> None:
    """Load a model in a process of its own, which caches it.

    A pool of multiprocessing would run a user's script again, that calls ``harness.train``. A
    process that is killed, or stays stopped, is followed by another one.

    Raises ModelError with the last line of the process.
    """
    for _ in range(TRIES):
        code, errors = _ended(pickle.dumps((sys.path, pickle.dumps(model))))
        if code >= 0:
            break
    if code:
        last = (errors.decode(errors="replace").strip() or f"exit code {code}").splitlines()[-1]
        raise ModelError(explain("nursery model", got=f"an error while it was pretrained ({last})", fix="run the same command again"))


def _ended(given: bytes) -> tuple[int, bytes]:
    """Run a process that loads a model; return its exit code and standard error."""
    stopped, rest = 0.0, cast("bytes | None", given)
    with subprocess.Popen(
        [sys.executable, "-c", _LOAD], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while True:
            try:
                errors = process.communicate(rest, timeout=LOOK)[1]
                return process.returncode, errors
            except subprocess.TimeoutExpired:
                rest = None  # it is sent; another call with it would be an error
            except BaseException:
                process.kill()
                raise
            with contextlib.suppress(psutil.NoSuchProcess):
                is_stopped = psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
                stopped = stopped + LOOK if is_stopped else 0.0
            if stopped >= STOPPED:
                process.kill()
