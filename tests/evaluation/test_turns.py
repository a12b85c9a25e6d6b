"""Worked examples under a chat template are turns, as lm-eval's own command line makes them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from harness.core.progress import Silent
from harness.core.seeds import untouched_global_streams
from harness.evaluation import evaluator, prompts, task_index
from harness.evaluation.backends import Evaluation, HfEvaluation, PrefixEvaluation
from harness.evaluation.suites import load

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} </> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
COMMON = """dataset_path: json
dataset_kwargs: {data_files: {train: DATA, test: DATA}}
test_split: test
fewshot_split: train
doc_to_text: "what {{number}} is"
metadata: {version: 1}
"""
TASKS = {
    "choose": "output_type: multiple_choice\ndescription: a list\ndoc_to_choice: [the, of, a]\ndoc_to_target: '{{gold}}'\nnum_fewshot: 2\n",
    "write": "output_type: generate_until\ndoc_to_target: '{{word}}'\ngeneration_kwargs: {until: ['.'], max_gen_toks: 4}\nnum_fewshot: 3\n",
    "begin": "output_type: generate_until\ndoc_to_target: '{{word}}'\ngen_prefix: 'it is'\n"
    "generation_kwargs: {until: ['.'], max_gen_toks: 4}\nnum_fewshot: 2\n",
    "fill": "output_type: multiple_choice\ndoc_to_text: '{{gold}}'\ndoc_to_choice: [the, of, a]\ndoc_to_target: is\nnum_fewshot: 2\n",
    "zero": "output_type: multiple_choice\ndescription: a list\ndoc_to_choice: [the, of, a]\ndoc_to_target: '{{gold}}'\nnum_fewshot: 0\n",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Tasks with worked examples, or without: choices, written answers, choices in the prompt."""
    items = [{"number": i, "word": ["the", "of", "a"][i % 3], "gold": i % 3} for i in range(12)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    tasks = tmp_path / "benchmarks" / "tasks"
    tasks.mkdir(parents=True)
    for name, text in TASKS.items():
        of_kind = "metric_list: [{metric: acc}]\n" if "multiple" in text else "metric_list: [{metric: exact_match}]\n"
        common = COMMON if name != "fill" else COMMON.replace('doc_to_text: "what {{number}} is"\n', "")
        (tasks / f"{name}.yaml").write_text(f"task: {name}\n" + common.replace("DATA", str(tmp_path / "items.jsonl")) + text + of_kind)
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    task_index._ours.cache_clear()
    yield tmp_path
    task_index._ours.cache_clear()


@pytest.fixture
def chat(words: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer = copy.deepcopy(words)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def by_lm_eval(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str, folder: Path, **settings: Any) -> list[Any]:
    """Return the arguments of lm-eval's own requests, in the order of the documents."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with untouched_global_streams():
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, max_length=512, batch_size=4),
            tasks=[name],
            task_manager=TaskManager(include_path=str(folder / "benchmarks" / "tasks"), include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
            **settings,
        )
    assert found is not None
    return [[one[:2] for one in sample["arguments"]] for sample in sorted(found["samples"][name], key=lambda one: one["doc_id"])]


@pytest.mark.parametrize("evaluation", [HfEvaluation, PrefixEvaluation])
@pytest.mark.parametrize("prompt_format", ["chat", "plain"])
@pytest.mark.parametrize("name", TASKS)
def test_requests_are_those_of_lm_eval_s_command_line(
    own: Path, random_model: LlamaForCausalLM, chat: PreTrainedTokenizerBase, name: str, prompt_format: Any, evaluation: type[Evaluation]
) -> None:
    """Its --apply_chat_template makes worked examples turns; prompts and choices are equal."""
    is_chat = prompt_format == "chat"
    settings = evaluation(prompt_format=prompt_format)
    prepared = evaluator.prepare(load(name), settings)
    found = evaluator.evaluate(prepared, settings, random_model, chat, max_length=512, dtype="float32", progress=Silent(), stage="")
    assert all(score.status == "ok" for score in found.scores), found.scores
    expected = by_lm_eval(random_model, chat, name, own, apply_chat_template=is_chat, fewshot_as_multiturn=is_chat)
    asked = found.samples.sort_values("doc_id")
    assert asked["prompt"].tolist() == [arguments[0][0] for arguments in expected]
    if "multiple" in TASKS[name]:
        assert [list(one) for one in asked["choices"]] == [[answer for _, answer in arguments] for arguments in expected]
    shots = int(prepared.tasks[name].config.num_fewshot)
    assert all(prompt.count("<user>") == (shots + 1 if is_chat else 0) for prompt in asked["prompt"])


def test_the_shown_prompt_has_turns(own: Path, chat: PreTrainedTokenizerBase) -> None:
    """`harness prompt` shows the layout that is measured."""
    evaluation = HfEvaluation(prompt_format="chat")
    text = prompts.shown(evaluator.prepare(load("write"), evaluation), evaluation, chat, 512)["write"]
    pieces = next(line for line in text.splitlines() if line.startswith("  pieces: "))
    assert pieces.count("what") == 4  # three worked examples and the question


def test_the_layout_is_part_of_the_identity_where_it_counts(own: Path) -> None:
    """Of worked examples under a chat template; zero-shot and plain identities have no such key."""
    contents = {
        (name, kind): evaluator.prepare(load(name), HfEvaluation(prompt_format=kind)).content[name]
        for name in ("choose", "zero")
        for kind in ("plain", "chat")
    }
    assert {key for key, content in contents.items() if "layout" in content} == {("choose", "chat")}
    assert contents["choose", "chat"] == {**contents["choose", "plain"], "layout": "turns"}
    assert contents["zero", "chat"] == contents["zero", "plain"]
