"""`prefix` by its name: in a fresh interpreter, and in lm-eval's own entry point."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.registry import get_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

import harness.evaluation  # noqa: F401 - registers the name
from tests.support.families import TOLERANCE


def fresh(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_name_is_known_once_the_package_is_imported() -> None:
    """Next to lm-eval's own names; neither class nor torch is imported before use."""
    code = """
import sys
import harness.evaluation
print("torch" in sys.modules, "transformers" in sys.modules)
from lm_eval.api.registry import get_model
print(get_model("prefix").__name__, get_model("hf").__name__, issubclass(get_model("prefix"), get_model("hf")))
"""
    assert fresh(code) == ["False", "False", "PrefixLM", "HFLM", "True"]


def test_the_class_may_be_imported_by_itself() -> None:
    """It registers itself under the same name, once."""
    code = """
from harness.evaluation.prefix.lm import PrefixLM
from lm_eval.api.registry import get_model
print(get_model("prefix") is PrefixLM)
"""
    assert fresh(code) == ["True"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase) -> Path:
    """A saved model with a chat template."""
    made = tmp_path_factory.mktemp("model")
    random_model.save_pretrained(made)
    words.save_pretrained(made)
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}{{ bos_token or '' }} {% endif %}"
    (made / "chat_template.jinja").write_text(template)
    return made


ITEMS = """
import datasets
from harness.data.tinyworld.questions import items as world_items

def items(**_):
    return {"test": datasets.Dataset.from_list([dict(item) for item in world_items("facts")])}
"""
COMMON = """
custom_dataset: !function items.items
test_split: test
fewshot_split: test
doc_to_text: prompt
"""
TASKS = {
    "choose": """
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "write": """
output_type: generate_until
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "read": """
output_type: loglikelihood_rolling
doc_to_target: "{{prompt}}{{choices[answer]}}"
metric_list: [{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}]
""",
}


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same items asked in three ways, in a user's task files."""
    from lm_eval.tasks import TaskManager

    made = tmp_path_factory.mktemp("tasks")
    (made / "items.py").write_text(ITEMS)
    for name, text in TASKS.items():
        (made / f"{name}.yaml").write_text(f"task: {name}{COMMON}{text}")
    return TaskManager(include_path=str(made), include_defaults=False)


def simple(model: str, folder: Path, manager: Any, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    from lm_eval import evaluator

    monkeypatch.setattr(evaluator, "add_env_info", lambda _: None)  # asks pip what is installed, for seconds
    arguments = f"pretrained={folder},dtype=float32,max_length=64"
    settings = {"model_args": arguments, "device": "cpu", "limit": 12, "bootstrap_iters": 0, "task_manager": manager}
    found = evaluator.simple_evaluate(model=model, **settings, **changes)
    assert found is not None
    return dict(found)


SETTINGS: dict[str, dict[str, Any]] = {
    "zero-shot": {"tasks": ["choose", "write", "read"]},
    "few-shot": {"tasks": ["choose", "write"], "num_fewshot": 3},
    "chat": {"tasks": ["choose", "write"], "apply_chat_template": True},
    "chat, few-shot": {"tasks": ["choose", "write"], "apply_chat_template": True, "num_fewshot": 3, "fewshot_as_multiturn": True},
}


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_lm_eval_evaluates_it_as_it_evaluates_its_own_class(
    folder: Path, manager: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Same prompts, accuracies, flags and answers; log-likelihoods within 0.001 nats.

    By name, with the same arguments.
    """
    caplog.set_level(logging.ERROR)
    one, other = (simple(model, folder, manager, monkeypatch, log_samples=True, **changes) for model in ("hf", "prefix"))
    for task, scores in one["results"].items():
        found = other["results"][task]
        for name, value in scores.items():
            assert found[name] == (pytest.approx(value, abs=TOLERANCE) if "bits_per_byte,none" in name else value), name
    for task, samples in one["samples"].items():
        for sample, again in zip(samples, other["samples"][task], strict=True):
            assert again["arguments"] == sample["arguments"]
            for first, second in zip(sample["filtered_resps"], again["filtered_resps"], strict=True):
                assert numbers(second) == pytest.approx(numbers(first), abs=TOLERANCE) if task != "write" else second == first


def numbers(response: Any) -> list[float]:
    """A log-likelihood, and its flag where it has one."""
    return [float(part) for part in response] if isinstance(response, tuple | list) else [float(response)]


def test_its_own_argument_stands_beside_hflms(folder: Path) -> None:
    """Both as lm-eval's command line writes them."""
    lm = get_model("prefix").create_from_arg_string(
        f"pretrained={folder},dtype=float32,token_budget=77", {"device": "cpu", "batch_size": 8}
    )
    assert (lm.engine.tokens, lm.batch_size, str(lm.device)) == (77, 8, "cpu")
    found = get_model("prefix")(pretrained=lm.model, tokenizer=lm.tokenizer)
    assert found.engine.tokens >= 64
    assert found.engine.tokens & (found.engine.tokens - 1) == 0
