"""What changes the id of a run, and what the id of a measurement: a setting or an edit a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.config import composition
from harness.config.resolution import Machine
from harness.core.errors import EvaluationError
from harness.evaluation import hashes
from harness.run.preparation import Prepared, prepare
from harness.run.workspace import Workspace

RUN, MEASUREMENT, BOTH, NEITHER = (True, False), (False, True), (True, True), (False, False)

ITEMS = [{"question": f"a{i} of b{i % 3} is", "answers": [f"c{i}", f"d{i}"], "gold": i % 2} for i in range(30)]
SUITE = "kind: lm_eval\ntasks: [{}]\nmetric: acc\nreport: 12\nselect: 4\n"
TASK = """task: own
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{answers}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""
SCORER = "from helper import right\n\n\ndef score(doc, results):\n    return {'acc': right(doc, results)}\n"
HELPER = "def right(doc, results):\n    return float(max(range(2), key=lambda i: results[i][0]) == doc['gold'])\n"


@pytest.fixture
def own(runs: object) -> Path:
    """A folder with models and an lm-eval task of its own, its data outside the task's folder."""
    (Path("elsewhere")).mkdir()
    Path("elsewhere/items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    tasks = Path("own/benchmarks/tasks/mine")
    tasks.mkdir(parents=True)
    (tasks / "own.yaml").write_text(TASK.replace("DATA", str(Path("elsewhere/items.jsonl").resolve())))
    Path("own/benchmarks/suites/own.yaml").write_text(SUITE.format("own"))
    Path("rows.jsonl").write_text("".join(json.dumps({"prompt": f"a{i} of", "completion": f"b{i}"}) + "\n" for i in range(64)))
    return Path()


FIXED = ["model=start", "data=files", "data.train=rows.jsonl", "data.volumes=[8,16]", "target_suites=[own]", "probe_suites=[drift_base]"]


def prepared(*overrides: str, machine: Machine | None = None) -> Prepared:
    """Prepare a run in a fresh process's workspace."""
    from harness.evaluation import task_index

    task_index._ours.cache_clear()  # lm-eval reads task files once a process
    machine = machine or Machine(cores=2, gpus=0)
    return prepare(composition.compose([*FIXED, "training.learning_rate=0.01", *overrides]), Workspace(), machine)


def ids(found: Prepared) -> tuple[str, tuple[str, ...]]:
    """Return the id of a run, and what its measurements are found by."""
    return found.run_id, (*found.evaluation_ids.values(), found.before_sha256)


BASE = ["probe_suites=[]"]

SETTINGS: dict[str, tuple[list[str], list[str], tuple[bool, bool]]] = {
    "seed": ([], ["seed=1"], RUN),
    "learning rate": ([], ["training.learning_rate=0.02"], RUN),
    "tuning": ([], ["tuning=lora"], RUN),
    "mitigation": ([], ["mitigation=l2"], RUN),
    "batch rows": ([], ["training.batch_rows=4"], RUN),
    "training dtype": ([], ["training.dtype=bfloat16"], RUN),
    "longest row": ([], ["training.max_length=16"], RUN),
    "longest row beyond the context": (["training.max_length=64"], ["training.max_length=4096"], NEITHER),
    "dtype auto, spelled": ([], ["training.dtype=float32", "evaluation.dtype=float32"], NEITHER),
    "alpha null, spelled": (["tuning=lora", "tuning.rank=4"], ["tuning=lora", "tuning.rank=4", "tuning.alpha=8"], NEITHER),
    "frozen blocks null, spelled": (["tuning=frozen"], ["tuning=frozen", "tuning.layers=1"], NEITHER),
    "training threads": ([], ["training.threads=2"], NEITHER),
    "processes": ([], ["training.processes=2"], NEITHER),
    "gradient checkpointing": ([], ["training.gradient_checkpointing=true"], NEITHER),
    "micro-batch": ([], ["training.micro_batch_rows=2"], NEITHER),
    "micro-batch with dropout": (
        ["tuning=lora", "tuning.dropout=0.1"],
        ["tuning=lora", "tuning.dropout=0.1", "training.micro_batch_rows=2"],
        RUN,
    ),
    "whole micro-batch with dropout, spelled": (
        ["tuning=lora", "tuning.dropout=0.1"],
        ["tuning=lora", "tuning.dropout=0.1", "training.micro_batch_rows=8"],
        NEITHER,
    ),
    "volumes": ([], ["data.volumes=[16,32]"], NEITHER),
    "volume of an independent trajectory": (
        ["trajectory=independent", "data.volumes=[8]"],
        ["trajectory=independent", "data.volumes=[16]"],
        RUN,
    ),
    "volumes that early stop looks at": (["mitigation=early_stop"], ["mitigation=early_stop", "data.volumes=[16]"], RUN),
    "further suite": ([], ["probe_suites=[probe]"], MEASUREMENT),
    "backend": ([], ["evaluation=hf"], MEASUREMENT),
    "backend that early stop reads": (["mitigation=early_stop"], ["mitigation=early_stop", "evaluation=hf"], BOTH),
    "evaluation dtype": ([], ["evaluation.dtype=bfloat16"], MEASUREMENT),
    "BOS": ([], ["evaluation.add_bos=false"], MEASUREMENT),
    "token budget": ([], ["evaluation.token_budget=64"], NEITHER),
    "evaluation batch": (["evaluation=hf"], ["evaluation=hf", "evaluation.batch_size=4"], NEITHER),
    "reference": ([], ["reference=chat"], MEASUREMENT),
    "start model": ([], ["model=chat"], BOTH),
    "where points are measured": ([], ["evaluation.where=separate"], NEITHER),
    "declaration": ([], ["declared.margin=0.1"], NEITHER),
    "declared rates": ([], ["declared.any_rate=true"], NEITHER),
    "declared law": ([], ["declared.law=power"], NEITHER),
    "name and folder": ([], ["name=other", "results=elsewhere"], NEITHER),
    "weights that are kept": ([], ["save_weights=all"], NEITHER),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_changes_what_it_decides(own: Path, name: str) -> None:
    """A run is identified by what decides its weights, a measurement by what decides its scores."""
    first, second, expected = SETTINGS[name]
    before, after = ids(prepared(*BASE, *first)), ids(prepared(*BASE, *second))
    assert (before[0] != after[0], before[1] != after[1]) == expected


def test_a_device_counts_where_random_numbers_are_its_own(own: Path) -> None:
    """Masks of dropout are drawn on the device; without any, devices differ by rounding."""
    gpu, plain = Machine(cores=2, gpus=1), [*BASE, "training.dtype=float32", "evaluation.dtype=float32"]
    dropping = [*plain, "tuning=lora", "tuning.dropout=0.1"]
    assert prepared(*plain).run_id == prepared(*plain, machine=gpu).run_id
    assert prepared(*dropping).run_id != prepared(*dropping, machine=gpu).run_id


def test_the_version_of_a_library_counts_where_the_loss_is_its_own(own: Path) -> None:
    """The losses of preference pairs and rewards are TRL's; that of tokens is not."""
    import trl

    assert "library" not in prepared(*BASE).identity
    pairs = prepare(composition.compose(["model=nursery-smoke-chat", "data=tinyworld-preferences", "objective=dpo", *BASE]), Workspace())
    assert pairs.identity["library"] == f"trl {trl.__version__}"


def changed(path: str, old: str, new: str) -> Callable[[], None]:
    """Return an edit of a file."""

    def edit() -> None:
        text = Path(path).read_text()
        assert old in text
        Path(path).write_text(text.replace(old, new))

    return edit


YAML, DATA = "own/benchmarks/tasks/mine/own.yaml", "elsewhere/items.jsonl"


def weights() -> None:
    from safetensors.torch import load_file, save_file

    found = load_file("models/start/model.safetensors")
    found["lm_head.weight"][5, 3] += 1e-3
    save_file(found, "models/start/model.safetensors", metadata={"format": "pt"})


def template() -> None:
    file = Path("models/start/tokenizer_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": "{{ messages[0]['content'] }}"}))


EDITS: dict[str, tuple[Callable[[], None], tuple[bool, bool]]] = {
    "a row of the data": (changed("rows.jsonl", "a3 of", "a5 of"), RUN),
    "weights of the model": (weights, BOTH),
    "chat template": (template, BOTH),
    "target of a task": (changed(YAML, "{{gold}}", "{{1 - gold}}"), MEASUREMENT),
    "prompt of a task": (changed(YAML, '"{{question}}"', '"{{question}} now"'), MEASUREMENT),
    "blank before the choices of a task": (changed(YAML, '"{{answers}}"', "\"{{answers | map('upper') | list}}\""), MEASUREMENT),
    "delimiter of a task": (changed(YAML, "metadata:", "target_delimiter: '  '\nmetadata:"), MEASUREMENT),
    "metric of a task": (changed(YAML, "metric: acc,", "metric: acc_norm,"), MEASUREMENT),
    "items of a data file elsewhere": (changed(DATA, '"d', '"e'), MEASUREMENT),
    "a comment in a task": (changed(YAML, "task: own\n", "task: own  # mine\n"), NEITHER),
    "the flow of a task's yaml": (changed(YAML, "metadata: {version: 1}", "metadata:\n  version: 1"), NEITHER),
    "number of items": (changed("own/benchmarks/suites/own.yaml", "report: 12", "report: 13"), MEASUREMENT),
    "number of worked examples": (changed("own/benchmarks/suites/own.yaml", "report: 12", "report: 12\nnum_fewshot: 2"), MEASUREMENT),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_changes_what_it_decides(own: Path, name: str) -> None:
    """The content that a run and its measurements are made of counts, not its spelling."""
    edit, expected = EDITS[name]
    before = ids(prepared(*BASE))
    if name == "metric of a task":
        changed("own/benchmarks/suites/own.yaml", "metric: acc\n", "metric: acc_norm\n")()
    edit()
    after = ids(prepared(*BASE))
    assert (before[0] != after[0], before[1] != after[1]) == expected


INCLUDED = "own/benchmarks/tasks/shared/base.yaml"


@pytest.mark.parametrize(
    ("yaml", "suite"),
    [
        ("task: own  # mine\ninclude: ../shared/base.yaml\n", "own"),
        ("tag: [mine]\ntask: own\ninclude: ../shared/base.yaml\n", "mine"),
        ("{task: own, include: ../shared/base.yaml}\n", "own"),
        ("task: own\ninclude: ../shared/base.yaml\n", "grouped"),
    ],
)
def test_a_definition_counts_however_it_is_written(own: Path, yaml: str, suite: str) -> None:
    """The gold answers change in an included file: the task as built is compared, not its yaml."""
    text = Path(YAML).read_text().replace("task: own\n", "")
    Path(INCLUDED).parent.mkdir()
    Path(INCLUDED).write_text(text)
    Path(YAML).write_text(yaml)
    Path(YAML).with_name("group.yaml").write_text("group: grouped  # of one\ntask: [own]\n")
    Path("own/benchmarks/suites/own.yaml").write_text(SUITE.format(suite))
    before = ids(prepared(*BASE))
    changed(INCLUDED, "{{gold}}", "{{1 - gold}}")()
    after = ids(prepared(*BASE))
    assert (before[0] == after[0], before[1] != after[1]) == (True, True)


def test_code_of_a_task_counts_with_the_files_it_imports(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function that scores is in another folder, and calls one of a file elsewhere."""
    code, helpers = Path("own/benchmarks/tasks/mine/code"), Path("helpers").resolve()
    code.mkdir()
    helpers.mkdir()
    (code / "scorer.py").write_text(SCORER)
    (helpers / "helper.py").write_text(HELPER)
    Path(YAML).write_text(Path(YAML).read_text() + "process_results: !function code.scorer.score\n")
    monkeypatch.syspath_prepend(helpers)
    before = ids(prepared(*BASE))
    (helpers / "helper.py").write_text(HELPER.replace("max(", "min("))
    with pytest.raises(EvaluationError, match=r"task own: code: got .*helper.py, which changed after this process imported it"):
        prepared(*BASE)
    hashes._imported_files.clear()  # as in a new process
    after = ids(prepared(*BASE))
    assert (before[0] == after[0], before[1] != after[1]) == (True, True)


@pytest.mark.parametrize(
    ("drawn", "got"),
    [
        ("!function drawn.asked", "prompts that differ each time they are built"),
        ('"{{ range(9) | random }} {{question}}"', "a template that fails .a random draw, which gives another text each time"),
    ],
)
def test_prompts_drawn_at_random_are_rejected(own: Path, drawn: str, got: str) -> None:
    """They would be another measurement each time."""
    Path(YAML).with_name("drawn.py").write_text("import random\n\n\ndef asked(doc):\n    return f'{random.random()} {doc}'\n")
    changed(YAML, '"{{question}}"', drawn)()
    with pytest.raises(EvaluationError, match=f"task own: got {got}"):
        prepared(*BASE)
