"""The sweep of ``harness mix``: one arm for each share of old data in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.config import composition, paths
from harness.config.overrides import Parsed, parse, value_of
from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError, DataError, explain
from harness.core.sources import Source
from harness.run.preparation import prepare
from harness.run.workspace import Workspace
from harness.sweep.launchers.choose import split

Arms = Mapping[str, Mapping[str, str]]
"""Name of an arm → its overrides."""

LEAST = 0.001
"""Smallest share that replay can have, other than 0."""

HELD_OUT = 256
"""Rows held out of data without a test split; a fifth of fewer rows."""

LARGEST = 1024
"""Most rows that are trained on by default."""

OWN = ("mitigation", "seed", "experiment", "arms")
"""Keys that the command sets itself."""

DEFAULTS = {"name": "mix", "save_weights": "none", "keep_state": "false", "training.rate_of.mitigation": "none"}
"""The last makes the rate of the arms equal: rates are searched for each mitigation."""


def shares_of(text: str) -> list[float]:
    """Return shares of the loss, ascending, 0 among them.

    Args:
        text: separated by commas, such as ``0,0.05,0.25``.

    Raises:
        ConfigError: for a text that is not a number, or a share that replay cannot have.
    """
    allowed, found = f"0 and numbers from {LEAST} to below 1, separated by commas", {0.0}
    for part in text.split(","):
        try:
            share = float(part)
        except ValueError:
            share = -1.0
        if not (share == 0 or LEAST <= share < 1):
            raise ConfigError(explain("--shares", got=repr(part), allowed=allowed, fix="--shares 0,0.05,0.25"))
        found.add(share)
    if len(found) == 1:
        raise ConfigError(explain("--shares", got="0 alone", allowed=allowed, fix="--shares 0,0.05,0.25"))
    return sorted(found)


def arms_of(shares: Sequence[float]) -> Arms:
    """Return the arm of each share; that of 0 has no mitigation."""
    return {
        f"share-{share:g}": {"mitigation": "replay", "mitigation.loss_share": f"{share:g}"} if share else {"mitigation": "none"}
        for share in shares
    }


def overrides_of(given: Sequence[str], seeds: int) -> list[str]:
    """Return the overrides of the sweep: those given, and defaults for what they leave open.

    - ``target_suites``: the suite with the name of the data, else ``target_nll``.
    - ``probe_suites``: ``anchor_nll``, then those given.
    - ``held_out``: of data or an anchor that lack a test split which is asked for.
    - ``data.volumes``: one, all rows that teach in whole steps, at most LARGEST.

    Args:
        given: key=value, with data and anchor, perhaps those of a launcher.
        seeds: number of seeds.

    Raises:
        HarnessError: one line, for wrong input; nothing was written.
    """
    if seeds < 1:
        raise ConfigError(explain("--seeds", got=seeds, allowed="1 or greater"))
    _, rest = split(given)
    parsed = parse(rest)
    _check(parsed)
    found = [*given, *(f"{key}={value}" for key, value in DEFAULTS.items() if key not in parsed.keys)]
    found = [text for text in found if not text.startswith("probe_suites=")]
    found.append(f"probe_suites=[{','.join(dict.fromkeys(['anchor_nll', *_given_probes(parsed)]))}]")
    if "target_suites" not in parsed.keys and parsed.choices["data"] not in paths.members("benchmarks/suites"):
        found.append("target_suites=[target_nll]")
    config = _composed(found)
    for group, source, suite in [("data", config.data, "target_nll"), ("anchor", config.anchor, "anchor_nll")]:
        if source and suite in (*config.target_suites, *config.probe_suites):
            found += _held_out(group, source, parsed)
    workspace = Workspace()
    _check_apart(_composed(found), workspace)
    if "data.volumes" not in parsed.keys:
        found.append(f"data.volumes=[{_volume(found, workspace)}]")
    return [*found, f"seed={','.join(map(str, range(seeds)))}"] if seeds > 1 else [*found, "seed=0"]


def _check(parsed: Parsed) -> None:
    """Raise ConfigError for a key that the command sets itself, an axis, or missing data."""
    fixes = {"seed": "--seeds N", "mitigation": "--shares A,B", "experiment": "harness sweep", "arms": "--shares A,B"}
    for key in sorted(parsed.keys):
        if (group := key.partition(".")[0]) in OWN:
            raise ConfigError(explain(f"harness mix: {key}", got="a value", allowed="none: the shares are the arms", fix=fixes[group]))
    for key, values in parsed.sweeps.items():
        allowed, fix = "one value: the shares are the axis", "harness mix for each, with name=NAME"
        raise ConfigError(explain(f"harness mix: {key}", got=",".join(values), allowed=allowed, fix=fix))
    for group in ("data", "anchor"):
        if not parsed.choices.get(group):
            allowed = "a file, a data set of the hub, or a member of conf/data (`harness list data`)"
            example = "harness mix data=new.jsonl anchor=old.jsonl model=NAME"
            raise ConfigError(explain(f"harness mix: {group}", got="nothing", allowed=allowed, fix=example))


def _given_probes(parsed: Parsed) -> list[str]:
    """Return the probe suites of the command line. Raises ConfigError for another value."""
    text = parsed.values.get("probe_suites", "[]")
    found = value_of(text)
    if not isinstance(found, list):
        raise ConfigError(explain("probe_suites", got=text, allowed="a list", fix=f'"probe_suites=[{text}]"'))
    return [str(name) for name in found]


def _composed(overrides: Sequence[str]) -> RunConfig:
    """Return the configuration of the arm without old data."""
    return composition.compose(split(overrides)[1])


def _held_out(group: str, source: Source, parsed: Parsed) -> list[str]:
    """Return the override that holds rows out, where the source has no test split."""
    if source.has_test or f"{group}.held_out" in parsed.keys:
        return []
    rows = len({row.id for row in source.rows("train")})
    if rows < 10:
        fix = f"more rows, or held-out ones: {group}.test=PATH"
        raise DataError(explain(f"harness mix: {group}", got=f"{rows} distinct rows and no test split", allowed="10 or more", fix=fix))
    return [f"{group}.held_out={min(HELD_OUT, rows // 5)}"]


def _check_apart(config: RunConfig, workspace: Workspace) -> None:
    """Raise DataError where a held-out row of data or anchor is a training row of the other."""
    suites = [workspace.suite(name) for name in (*config.target_suites, *config.probe_suites)]
    measured = {suite.data for suite in suites if suite.kind != "lm_eval" and suite.split == "test"}
    sources = {"data": config.data, "anchor": config.anchor}
    for group, other in [("data", "anchor"), ("anchor", "data")]:
        tested, trained = sources[group], sources[other]
        if tested and trained and ("target" if group == "data" else "anchor") in measured:
            ids = {row.id for row in workspace.rows_of(tested, "test")}
            if both := len(ids.intersection(row.id for row in workspace.rows_of(trained))):
                got, fix = f"{both} held-out rows of {group} among its training rows", "remove from one of them the rows that both have"
                raise DataError(explain(f"harness mix: {other}", got=got, allowed="none", fix=fix))


def _volume(overrides: Sequence[str], workspace: Workspace) -> int:
    """Return all rows that teach, in whole steps, at most LARGEST. Raises HarnessError."""
    batch = _composed(overrides).training.batch_rows
    prepared = prepare(_composed([*overrides, f"data.volumes=[{batch}]"]), workspace)
    return min(len(prepared.taught.rows), max(LARGEST, batch)) // batch * batch
