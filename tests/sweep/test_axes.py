"""Axes to points: multiplied, zipped, excluded, replaced.

Each point is what its overrides compose to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from harness.analysis.claims import declaration
from harness.config import composition, paths
from harness.config.overrides import Parsed
from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError
from harness.core.rows import Row
from harness.data import subsets
from harness.evaluation import suites
from harness.run import preparation
from harness.run.workspace import Workspace
from harness.sweep import axes
from harness.sweep.axes import expand

Written = Any


def configs(*overrides: str) -> list[RunConfig]:
    return [asked.config for asked in expand(overrides).asked]


def label(config: RunConfig) -> tuple[str, float | None]:
    return config.labels.tuning, config.training.learning_rate


@pytest.mark.parametrize("name", sorted(paths.members("conf/experiment")))
def test_every_point_of_every_experiment_is_what_its_overrides_compose_to(name: str) -> None:
    """Points are valid, distinct, and the same when a worker composes their overrides."""
    found = expand([f"experiment={name}"])
    assert found.rejected == []
    assert {asked.config.name for asked in found.asked} == {name.replace("/", "-")}
    assert len({repr(asked.config) for asked in found.asked}) == len(found.asked)
    for asked in found.asked[:: max(1, len(found.asked) // 5)] + found.asked[-1:]:
        assert composition.compose(asked.overrides) == asked.config


@pytest.mark.parametrize(
    "axis",
    [
        "data.volumes=[8],[8,16]",
        "model=hf model.name=a/b model.revision=12e45678,7012345,step1000",
        "model=hf model.name=a/b,'c/d'",
        "training.learning_rate=null,1e-3,0.002",
        "training.gradient_checkpointing=true,false",
        "tuning=lora tuning.rank=4,8 tuning.alpha=null,8",
        "anchor=null,tinyworld-base",
        "tuning=full,lora mitigation=replay anchor=tinyworld-base mitigation.fraction=0.25,0.5",
        "training={batch_rows: 4},{batch_rows: 2}",
        "target_suites=[tinyworld-people],[] probe_suites=[tinyworld]",
        "results=a,'b c'",
        "trajectory=independent training.decay=cosine,linear data.volumes=[8,16]",
    ],
)
def test_single_values_applied_here_are_those_that_hydra_applies(axis: str) -> None:
    """Numbers, text, null, lists, mappings, labels: both ways of composing agree."""
    found = expand(_split(axis)).asked
    assert len(found) > 1
    for asked in found:
        assert composition.compose(asked.overrides) == asked.config


def _split(axis: str) -> list[str]:
    parts: list[str] = []
    for part in axis.split(" "):
        if "=" in part:
            parts.append(part)
        else:
            parts[-1] += f" {part}"
    return parts


def test_a_revision_is_no_number_at_any_point() -> None:
    """It is kept as typed, in the configuration and in the label."""
    found = configs("model=hf", "model.name=a/b", "model.revision=12e45678,0012")
    assert [config.model.revision for config in found] == ["12e45678", "0012"]  # type: ignore[attr-defined]
    assert [config.labels.model for config in found] == ["a/b[revision=12e45678]", "a/b[revision=0012]"]


def test_the_experiments_for_a_cluster_have_the_arms_they_name() -> None:
    """Six sizes; learning rates for each of three arms; five shares of replay."""
    sizes = configs("experiment=size_law", "seed=0")
    assert [config.labels.model for config in sizes] == [f"pythia-{size}" for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b")]
    rates: dict[str, list[float | None]] = {}
    for config in configs("experiment=lora_vs_full", "seed=0"):
        rates.setdefault(config.labels.tuning, []).append(config.training.learning_rate)
    assert rates == {"full": [3e-6, 1e-5, 3e-5], "lora[rank=16]": [5e-5, 1e-4, 2e-4], "lora[rank=256]": [2e-5, 5e-5, 1e-4]}
    found = configs("experiment=replay")
    shares = ["none", *(f"replay[fraction={share},mode=compute_equivalent]" for share in (0.01, 0.05, 0.1, 0.25, 0.5))]
    assert [config.labels.mitigation for config in found if config.seed == 0] == shares
    assert {config.labels.anchor for config in found} == {"fineweb-edu"}


def test_a_claim_is_read_with_its_experiment() -> None:
    """Its hash does not depend on the points; it enters no configuration."""
    found = expand(["experiment=claims/lora", "arms=full", "seed=0"])
    assert found.claim == declaration.shipped()["lora"].digest
    assert "claim" not in repr(found.asked[0].config).replace("claims-lora", "")
    assert expand(["experiment=tiny", "seed=0"]).claim == ""


def test_mitigations_are_swept_next_to_all_that_can_be_done_without_one() -> None:
    """For each tuning four rates, and three passes at two of them, two volumes and three seeds.

    So in both experiments on the chat model; in the other wordings the plain arm is the gold one.
    """
    for name, plain in {"mitigations": "none", "own_words": "gold"}.items():
        found = [asked for asked in expand([f"experiment={name}"]).asked if asked.arm.startswith(f"{plain}-")]
        assert {asked.config.labels.mitigation for asked in found} == {"none"}
        runs: dict[tuple[str, str], list[tuple[Any, int]]] = {(asked.arm, asked.config.labels.tuning): [] for asked in found}
        for asked in found:
            runs[asked.arm, asked.config.labels.tuning].append((asked.config.training.learning_rate, asked.config.training.epochs))
        assert {key: sorted(set(values)) for key, values in runs.items()} == {
            (f"{plain}-rates", "full"): [(rate, 1) for rate in (1e-4, 2e-4, 4e-4, 8e-4)],
            (f"{plain}-rates", "lora"): [(rate, 1) for rate in (1e-4, 2e-4, 4e-4, 8e-4)],
            (f"{plain}-passes", "full"): [(1e-4, 3), (2e-4, 3)],
            (f"{plain}-passes", "lora"): [(1e-4, 3), (2e-4, 3)],
        }
        assert {key: len(values) for key, values in runs.items()} == dict.fromkeys(runs, 12)
        assert {asked.config.trajectory for asked in found if asked.arm.endswith("passes")} == {"independent"}


def test_rate_and_rank_have_a_control_for_each_cell() -> None:
    """Seven rates of two tunings; five ranks and full tuning, three rates each; three seeds."""
    for name, cells in {"rate": 14, "rank": 18}.items():
        found = configs(f"experiment={name}")
        kept = {
            data: sorted((*label(config), config.seed) for config in found if config.labels.data == data)
            for data in ("tinyworld-people", "tinyworld-base")
        }
        assert len(kept["tinyworld-people"]) == 3 * cells
        assert kept["tinyworld-people"] == kept["tinyworld-base"]
        assert {config.declared.any_rate for config in found} == {name == "rate"}


PLAIN = ("data=tinyworld-people", "objective=sft", "trajectory=shared", "training.decay=constant")
"""Overrides that leave `tiny` without controls and without the repeated cell."""


def test_axes_multiply_and_an_override_replaces_an_axis() -> None:
    """The product of the axes, in order.

    A single value fixes an axis; several, or a range, replace it.
    """
    whole = configs("experiment=tiny", *PLAIN)
    assert len(whole) == 5 * 2 * 3
    assert len(configs("experiment=tiny", *PLAIN, "tuning=lora")) == len(whole) / 2
    seeds = configs("experiment=tiny", *PLAIN, "model=nursery-xs", "seed=range(2,10,3)")
    assert [(config.labels.tuning, config.seed) for config in seeds] == [(t, s) for s in (2, 5, 8) for t in ("full", "lora[rank=4]")]


def test_the_default_sweep_has_a_control_for_each_arm_and_one_cell_with_a_schedule_a_volume() -> None:
    """30 runs of five volumes, and 3 on a skill.

    As many controls, equal but for the data; 15 runs of one cell, each with its own decay.
    """
    found = configs("experiment=tiny")
    shared = [config for config in found if config.trajectory == "shared"]
    cells = {
        name: [
            (config.labels.model, config.labels.tuning, config.seed, config.training.rate_of["data"])
            for config in shared
            if config.labels.data in of
        ]
        for name, of in {"target": ("tinyworld-people", "tinyworld-skill"), "control": ("tinyworld-base",)}.items()
    }
    assert len(cells["target"]) == 33
    assert sorted(cells["target"]) == sorted(cells["control"])
    assert [cell for cell in cells["target"] if cell[3] == "tinyworld-skill"] == [
        ("nursery-m", "full", seed, "tinyworld-skill") for seed in (0, 1, 2)
    ]
    assert {config.data.volumes for config in shared} == {(96, 192, 400, 800, 1600)}
    alone = [config for config in found if config.trajectory == "independent"]
    assert sorted((config.data.volumes[0], config.seed) for config in alone) == [
        (volume, seed) for volume in (96, 192, 400, 800, 1600) for seed in (0, 1, 2)
    ]
    assert {(c.labels.model, c.labels.tuning, c.labels.data, c.training.decay) for c in alone} == {
        ("nursery-m", "full", "tinyworld-people", "cosine")
    }
    assert {(config.declared.headline, tuple(config.declared.control.items())) for config in found} == {
        ("tinyworld", (("data", "tinyworld-base"),))
    }


def test_a_control_of_the_default_sweep_has_the_rate_of_its_arm_and_says_that_it_was_not_searched_for_it() -> None:
    """For each model and tuning, a run and its control have one rate.

    `lr_tuned` is false for the control.
    """
    workspace = Workspace()
    found: dict[tuple[str, str, str], dict[str, tuple[float, bool]]] = {}
    for config in configs("experiment=tiny", "seed=0", "trajectory=shared", "training.decay=constant"):
        resolved = preparation.prepare(config, workspace).resolved
        rates = found.setdefault((config.labels.model, config.labels.tuning, config.training.rate_of["data"]), {})
        rates[config.labels.data] = resolved.learning_rate, resolved.lr_tuned
    assert len(found) == 11
    for (_, _, target), rates in found.items():
        rate, tuned = rates[target]
        assert tuned
        assert rates["tinyworld-base"] == (rate, False)


def test_a_users_experiment_is_found_beside_the_shipped_ones(write: Written) -> None:
    """HARNESS_PATH adds members to every group.

    An experiment without a name takes its file's; a range is an axis in yaml, too.
    """
    found = configs(*write("params:\n  seed: range(1,3)"))
    assert [config.seed for config in found] == [1, 2]
    assert {config.name for config in found} == {"mine"}


ZIP = """
zip:
  - tuning: full,full,lora
    training.learning_rate: 1e-5,3e-5,2e-4
"""


def test_zipped_axes_go_together_and_multiply_with_others(write: Written) -> None:
    """One learning rate per tuning: three points, not six, times two seeds."""
    found = configs(*write(ZIP), "seed=0,1")
    points = [("full", 1e-5), ("full", 3e-5), ("lora", 2e-4)]
    assert {(label(config), config.seed) for config in found} == {(point, seed) for point in points for seed in (0, 1)}
    assert len(found) == 6


def test_the_command_line_narrows_a_zip_by_a_member_and_replaces_values(write: Written) -> None:
    """tuning=full keeps full's rates.

    A single rate holds for every point; both together replace the zip.
    """
    mine = write(ZIP)
    assert [label(config) for config in configs(*mine, "tuning=full")] == [("full", 1e-5), ("full", 3e-5)]
    assert [label(config) for config in configs(*mine, "training.learning_rate=0.5")] == [("full", 0.5), ("lora", 0.5)]
    both = configs(*mine, "tuning=lora", "training.learning_rate=0.1,0.2")
    assert [label(config) for config in both] == [("lora", 0.1), ("lora", 0.2)]


def test_a_tilde_leaves_a_key_alone(write: Written) -> None:
    """The point without a mitigation has no strength to set."""
    more = "defaults:\n  - override /data@anchor: tinyworld-base"
    mine = write("zip:\n  - mitigation: none,replay,replay\n    mitigation.fraction: ~,0.25,0.5", more)
    expected = ["none", "replay[fraction=0.25]", "replay[fraction=0.5]"]
    assert [config.labels.mitigation for config in configs(*mine)] == expected


def test_exclusions_leave_out_the_points_that_match_in_every_key(write: Written) -> None:
    """Of two by two by two points, one pair with either seed.

    Numbers are compared as numbers; a list matches any of its values.
    """
    params = "params:\n  tuning: full,lora\n  seed: 0,1\n  training.learning_rate: 1e-3,2e-3\n"
    found = configs(*write(f"{params}exclude:\n  - tuning: lora\n    training.learning_rate: 0.001\n    seed: 0,1"))
    assert len(found) == 6
    assert ("lora", 1e-3) not in [label(config) for config in found]


def test_an_exclusion_may_match_nothing_where_the_command_line_narrowed_its_axis(write: Written) -> None:
    """The experiment excludes lora at one seed; with full alone nothing matches."""
    mine = write("params:\n  tuning: full,lora\n  seed: 0,1\nexclude:\n  - tuning: lora\n    seed: 1")
    assert len(configs(*mine)) == 3
    assert len(configs(*mine, "tuning=full")) == 2


def test_points_that_mean_nothing_are_refused_one_by_one() -> None:
    """Replay needs an anchor: its points are rejected, the others remain.

    If all are rejected, that is an error.
    """
    found = expand(["mitigation=none,replay", "seed=0,1"])
    assert [asked.config.labels.mitigation for asked in found.asked] == ["none", "none"]
    assert [rejected.overrides for rejected in found.rejected] == [("mitigation=replay", "seed=0"), ("mitigation=replay", "seed=1")]
    assert all("no anchor" in rejected.reason and "\n" not in rejected.reason for rejected in found.rejected)
    with pytest.raises(ConfigError, match="no anchor"):
        expand(["mitigation=replay", "seed=0,1"])


def test_independent_volumes_are_runs_of_their_own() -> None:
    """Two volumes with two seeds are four runs, each composed by its overrides."""
    found = expand(["trajectory=independent", "data.volumes=[64,128]", "seed=0,1"]).asked
    assert [(asked.config.seed, asked.config.data.volumes) for asked in found] == [(0, (64,)), (0, (128,)), (1, (64,)), (1, (128,))]
    assert all(composition.compose(asked.overrides) == asked.config for asked in found)


@pytest.mark.parametrize(
    ("sweeper", "words"),
    [
        ("zip:\n  - tuning: full,lora\n    seed: 0,1,2", ["hydra.sweeper.zip", "2 of tuning, 3 of seed", "equally many"]),
        ("params:\n  seed: 0,1\nzip:\n  - seed: 0,1\n    tuning: full,lora", ["hydra.sweeper: seed", "two axes"]),
        ("params:\n  seed: 0,1\nexclude:\n  - sede: 1", ["hydra.sweeper.exclude: sede", "did you mean 'seed'"]),
        ("params:\n  seed: 0,1\nexclude:\n  - seed: 7", ["hydra.sweeper.exclude", "seed=7", "matches no point"]),
        ("params:\n  seed: 0,1\nexclude:\n  - seed: 0,1", ["exclusions of every point"]),
        ("params:\n  seed: 0,1\nexclude:\n  - 1", ["hydra.sweeper.exclude", "mappings"]),
        ("params:\n  model: nursery-s,nursery-z", ["model", "nursery-z"]),
        ("params:\n  seed: 0,soon", ["seed", "'soon'", "at seed=soon"]),
        ("params:\n  seed: interval(0,1)", ["seed", "interval(0,1)", "range(first, end, step)"]),
        ("parms:\n  seed: 0,1", ["parms"]),
    ],
)
def test_a_wrong_axis_gives_one_line(write: Written, sweeper: str, words: list[str]) -> None:
    """The line says what it got, what is allowed and how to fix it."""
    with pytest.raises(ConfigError) as caught:
        expand(write(sweeper))
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("seed=range(1000000000)", "seed: got range(1000000000), 1,000,000,000 values; allowed: a range of 1 to 10000 values"),
        ("seed=shuffle(range(0,10001))", "10,001 values"),
        ("seed=range(0,-1e9,-1)", "1,000,000,000 values"),
        (f"seed=range(1{'0' * 40})", "1e+40 values"),
        ("training.learning_rate=range(0,1,1e-300)", "1e+300 values"),
        ("seed=range(inf)", "seed: got range(inf); allowed: a range of 1 to 10000 values"),
        ("seed=range(0,1,0)", "seed: got range(0,1,0); allowed: a range of 1 to 10000 values"),
    ],
)
def test_a_range_is_counted_before_it_is_expanded(axis: str, message: str) -> None:
    """Too many values, and ranges without an end, are rejected at once."""
    with pytest.raises(ConfigError) as caught:
        expand(["name=e", axis])
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["seed=" + "1" * 40, "seed=" + "1" * 5000, "seed=1," + "1" * 5000, "training.learning_rate=" + "1" * 400])
def test_a_number_of_any_length_is_rejected_before_anything_runs(text: str) -> None:
    """Python's own limits are no tracebacks, and a long text is not repeated whole."""
    with pytest.raises(ConfigError) as caught:
        expand(["name=e", text])
    assert len(str(caught.value)) < 500


def test_the_points_of_a_sweep_are_counted_before_they_are_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each axis may be short: their product counts."""
    monkeypatch.setattr(axes._Sweep, "composed", lambda *_: pytest.fail("composed"))
    with pytest.raises(ConfigError) as caught:
        expand(["name=e", "seed=range(101)", "data.seed=range(100)", "tuning=full,lora"])
    got = "20,200 points (101 of seed × 100 of data.seed × 2 of tuning)"
    assert str(caught.value) == f"sweep: got {got}; allowed: at most 10,000; fix: fewer values, or several sweeps"


def test_a_member_that_a_zip_does_not_have_is_refused(write: Written) -> None:
    """Its rate would be that of another member."""
    with pytest.raises(ConfigError, match="'lora'; allowed: full, as zipped by the experiment; fix: give training.learning_rate too"):
        expand([*write("zip:\n  - tuning: full,full\n    training.learning_rate: 1e-5,3e-5"), "tuning=lora"])


def test_hydra_composes_once_for_each_combination_of_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four combinations and one look at the axes, for 4,000 runs.

    Their inputs are read once, so that a plan takes seconds.
    """
    composed: list[int] = []
    read: list[str] = []
    hydra, load, fingerprint = composition.compose_hydra, suites.load, subsets.fingerprint

    def compose_hydra(parsed: Parsed) -> composition.Composed:
        composed.append(1)
        return hydra(parsed)

    def load_suite(name: str) -> suites.Suite:
        read.append(name)
        return load(name)

    def fingerprint_rows(rows: Sequence[Row]) -> str:
        read.append("rows")
        return fingerprint(rows)

    monkeypatch.setattr(axes, "compose_hydra", compose_hydra)
    monkeypatch.setattr(suites, "load", load_suite)
    monkeypatch.setattr(subsets, "fingerprint", fingerprint_rows)
    given = ["model=nursery-xs,nursery-s", "tuning=full,lora", "seed=range(100)", "training.learning_rate=1e-3,2e-3,3e-3,4e-3,5e-3"]
    asked = expand(["experiment=tiny", *PLAIN, *given, "data.volumes=[64],[64,256]", "probe_suites=[tinyworld]"]).asked
    assert (len(asked), len(composed)) == (4_000, 5)
    workspace = Workspace()
    run_ids = {preparation.prepare(one.config, workspace).run_id for one in asked}
    assert len(run_ids) == 2_000  # volumes of a shared trajectory are no part of a run's identity
    assert sorted(read) == ["rows", "tinyworld", "tinyworld-people"]
