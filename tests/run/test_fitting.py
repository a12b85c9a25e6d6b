"""The check that a run fits into its GPU, before anything is loaded."""

from __future__ import annotations

import dataclasses
import re

import pytest

from benchmarks import memory
from harness.config import composition, paths
from harness.config.resolution import Machine
from harness.core.errors import ConfigError
from harness.core.footprint import USABLE
from harness.models.hub import HubModel
from harness.run import fitting
from harness.run.preparation import Prepared, prepare
from harness.run.workspace import Workspace
from harness.sweep.plan import device

MB = 2**20


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    return Workspace()


def prepared(workspace: Workspace, megabytes: float | None, *overrides: str, gpus: int = 1) -> Prepared:
    machine = Machine(cores=1, gpus=gpus, gpu_bytes=None if megabytes is None else round(megabytes * MB))
    return prepare(composition.compose(["model=nursery-xl", "data.volumes=[8]", *overrides]), workspace, machine)


def test_a_run_whose_static_memory_is_too_much_is_rejected_with_what_would_fit(workspace: Workspace) -> None:
    """1,245,168 parameters of 16 bytes are 19.0 MiB; LoRA needs less than half of it."""
    with pytest.raises(ConfigError) as error:
        prepared(workspace, 16)
    text = str(error.value)
    assert "\n" not in text
    assert "memory of model=nursery-xl tuning=full" in text
    assert "in a step (weights 0.0046, moments 0.0093, gradients 0.0046" in text
    assert "fix: tuning=lora" in text
    assert prepared(workspace, 16, "tuning=lora").run_id


def test_a_model_that_is_only_measured_needs_no_memory_of_training(workspace: Workspace) -> None:
    """As by `harness compare` and `measure`."""
    machine = Machine(cores=1, gpus=1, gpu_bytes=16 * MB)
    assert prepare(composition.compose(["model=nursery-xl", "data.volumes=[8]"]), workspace, machine, trains=False).run_id


def test_a_stop_at_which_the_base_is_float32_is_rejected_too(workspace: Workspace) -> None:
    """In steps of one row LoRA needs less than the 4 bytes a parameter, 4.75 MiB, of a stop."""
    setup, found = device.needed(prepared(workspace, None, "tuning=lora", "training.gradient_checkpointing=true"), rows=1)
    assert found.stop > found.step
    assert found.stop > 4 * (1_245_168 + 3 * setup.trained)
    with pytest.raises(ConfigError, match=r"at a stop, without its evaluation \(weights in float32 0\.0055") as error:
        prepared(workspace, 5, "tuning=lora")
    assert "fix: a GPU of 0.0076 GB, or a smaller model" in str(error.value), "a model of the nursery has no quantised weights"


def test_4_bits_and_bfloat16_are_offered_where_they_fit(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight of 4 bits has a scale of 8 bits for 64, and one of 32 bits for 256 of those."""
    monkeypatch.setattr(HubModel, "base_model", lambda _: None)
    run = prepared(workspace, None, "tuning=lora", "training.dtype=float32")
    setup, hub = device.needed(run, rows=1)[0], HubModel(name="any")
    named = dict(fitting._others(dataclasses.replace(run.config, model=hub), run.facts, setup))
    assert next(iter(named)) == "training.dtype=bfloat16"
    assert named["training.dtype=bfloat16"].half
    assert named["model.quantization=nf4"].quantized
    assert all(name.startswith(("training.", "model.")) for name in named)
    size = run.facts.dimensions
    assert size is not None
    four = fitting.memory_of(named["model.quantization=nf4"], run.facts, run.config, run.resolved)
    rest = 4 * (setup.params - size.in_matrices + setup.trained)
    assert four.weights - rest == pytest.approx(size.in_matrices * (4 + 8 / 64 + 32 / (64 * 256)) / 8, abs=1)


def test_the_micro_batch_is_the_largest_that_fits_and_no_part_of_a_run(workspace: Workspace) -> None:
    """A power of two; with dropout it stays whole, since it would be another run."""
    batch = ("training.batch_rows=64", "data.volumes=[64]")
    run = prepared(workspace, None, *batch)
    assert run.resolved.micro_batch_rows == 64
    for rows in (32, 16):
        size = 1.001 * device.needed(run, rows=rows)[1].peak / USABLE / MB
        tight = prepared(workspace, size, *batch)
        assert (tight.resolved.micro_batch_rows, tight.run_id) == (rows, run.run_id)
        own = prepared(workspace, size, *batch, "training.micro_batch_rows=64")
        assert (own.resolved.micro_batch_rows, own.run_id) == (64, run.run_id)
        assert prepared(workspace, size, *batch, "training.dropout=0.1").resolved.micro_batch_rows == 64


def test_replayed_rows_are_part_of_a_step(workspace: Workspace) -> None:
    """A fraction of 1 adds 8 rows to the 8 of a step."""
    replay = ("mitigation=replay", "anchor=tinyworld-base", "mitigation.fraction=1.0")
    assert device.needed(prepared(workspace, None, *replay))[0].rows == 16


def test_nothing_is_rejected_on_a_cpu_or_a_gpu_of_unknown_memory(workspace: Workspace) -> None:
    """There, the check knows no limit."""
    assert prepared(workspace, 1, gpus=0).run_id
    assert prepared(workspace, None).run_id


def test_a_micro_batch_that_halving_makes_fit_is_not_rejected(workspace: Workspace) -> None:
    """With dropout no micro-batch is halved, and only weights, moments and gradients are known."""
    run = prepared(workspace, None, "tuning=lora")
    whole, single = device.needed(run)[1].peak, device.needed(run, rows=1)[1].peak
    assert single < whole
    between = (whole + single) / 2 / USABLE
    assert prepared(workspace, between / MB, "tuning=lora").run_id
    assert device.most_rows(run, between) in {1, 2, 4}
    assert device.needed(prepared(workspace, None, "training.dropout=0.1"))[1].is_measured is False


@pytest.mark.parametrize("overrides", [("tuning=frozen",), ("objective=dpo", "data=tinyworld-preferences")])
def test_other_tunings_and_losses_are_said_to_be_not_measured(workspace: Workspace, overrides: tuple[str, ...]) -> None:
    """Weights, moments and gradients alone are counted."""
    setup, found = device.needed(prepared(workspace, None, *overrides))
    assert found.peak == found.static
    assert "not measured" in fitting.in_words(found, setup)


def test_the_listed_dimensions_give_the_published_numbers_of_parameters() -> None:
    """Every model of conf/model but ``hf`` is listed; its comment has the number of its paper."""
    known = memory.known()
    assert set(known) == set(paths.members("conf/model")) - {"hf"}
    checked = 0
    for name, size in known.items():
        found = re.search(r"([\d.]+)(B|M) parameters", paths.members("conf/model")[name].read_text())
        if found:
            digits = len(found[1].partition(".")[2])
            unit = {"B": 1e9, "M": 1e6}[found[2]]
            assert round(size.params / unit, digits) == float(found[1]), name
            checked += 1
    assert checked >= 30


def test_the_committed_table_is_the_scripts() -> None:
    """``python -m benchmarks.memory`` writes it."""
    assert memory.page() == memory.PAGE.read_text(encoding="utf-8")
