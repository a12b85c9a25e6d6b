"""lm-eval's tasks and groups as suites, under their own names."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from harness.core.errors import ConfigError, EvaluationError
from harness.core.progress import Silent
from harness.evaluation import evaluator, hashes, task_index
from harness.evaluation.backends import Evaluation, HfEvaluation, PrefixEvaluation
from harness.evaluation.suites import Suite, load
from harness.evaluation.tasks import build_tasks

CASES: dict[str, tuple[str, str, bool, str | None]] = {
    "arc_easy": ("acc", "none", True, "choices"),
    "lm_eval:hellaswag": ("acc", "none", True, "choices"),  # ours, hellaswag, takes acc_norm
    "lm_eval:mmlu": ("acc", "none", True, "choices"),
    "ai2_arc": ("acc", "none", True, "choices"),
    "gsm8k": ("exact_match", "strict-match", True, None),
    "bbh_zeroshot": ("exact_match", "flexible-extract", True, None),  # the group aggregates that filter, its tasks list another first
    "mmlu_pro": ("exact_match", "custom-extract", True, None),
    "wikitext": ("bits_per_byte", "none", False, None),  # after two perplexities, which are not means over items
    "lambada_openai": ("acc", "none", True, None),
    "truthfulqa_mc2": ("acc", "none", True, None),  # a share of probability: guessing one choice does not score 1/n
}


@pytest.mark.parametrize("name", CASES)
def test_a_task_of_lm_eval_is_a_suite_with_its_own_settings(name: str) -> None:
    """Metric, filter, direction and chance are lm-eval's; every item, its own number of shots."""
    suite = load(name)
    assert (suite.metric, suite.filter, suite.higher_is_better, suite.chance) == CASES[name]
    assert suite.tasks == (name.removeprefix("lm_eval:"),)
    assert (suite.num_fewshot, suite.report, suite.select) == (None, None, 0)


def test_our_suites_come_first() -> None:
    """A name that both have is ours; with lm_eval: before it, it is lm-eval's."""
    assert (load("hellaswag").metric, load("hellaswag").report) == ("acc_norm", 1000)
    assert (load("mmlu").num_fewshot, load("lm_eval:mmlu").num_fewshot) == (5, None)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("wmt16-en-ro", "task wmt16-en-ro with bleu, ter, chrf"),
        ("glue", "task cola with mcc"),
        ("leaderboard", "tasks without a common metric and filter: acc, acc_norm"),
        ("squadv2", "task squadv2 with metrics that its Python code defines"),
    ],
)
def test_a_task_without_values_of_items_is_rejected_by_name(name: str, word: str) -> None:
    """Scores of whole data sets cannot be paired; the way to a suite of one's own is named."""
    with pytest.raises(ConfigError, match=rf"suite {name}: got {word}.*benchmarks/suites"):
        load(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("arc_eazy", "'arc_easy'"),
        ("tinywrold", "'tinyworld'"),
        ("lm_eval:helaswag", "'lm_eval:hellaswag'"),
        ("lm_eval:tinyworld_facts", ""),
    ],
)
def test_an_unknown_name_is_compared_with_ours_and_lm_evals(name: str, near: str) -> None:
    """The error suggests the nearest; lm_eval: does not mean our own tasks."""
    with pytest.raises(ConfigError, match=rf"suite: got '{name}'.*lm-eval.*{near}"):
        load(name)


TASK = """task: pick
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{answers}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc_norm}, {metric: acc}]
num_fewshot: 2
metadata: {version: 1}
"""
GROUP = """group: two
num_fewshot: 1
task:
  - pick
  - {task: guess, num_fewshot: 3}
aggregate_metric_list: {metric: acc}
"""
GUESS = """task: guess
include: pick.yaml
metric_list: [{metric: acc}]
"""
SEVERAL = """task: several
include: pick.yaml
doc_to_target: "{{[0, 1]}}"
num_fewshot: 0
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Task files of a user: two tasks and their group, which lm-eval does not have."""
    items = [{"question": f"what {i} is", "answers": ["the", "of", "a"], "gold": i % 3} for i in range(20)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    tasks = tmp_path / "benchmarks" / "tasks"
    tasks.mkdir(parents=True)
    (tasks / "pick.yaml").write_text(TASK.replace("DATA", str(tmp_path / "items.jsonl")))
    for name, text in {"two": GROUP, "guess": GUESS, "several": SEVERAL}.items():
        (tasks / f"{name}.yaml").write_text(text)
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    task_index._ours.cache_clear()
    yield tmp_path
    task_index._ours.cache_clear()


def test_a_group_takes_what_lm_eval_builds_of_it(own: Path) -> None:
    """Its settings replace those of its tasks, and an entry's those of the group."""
    suite = load("two")
    built = build_tasks(suite)
    assert {name: task.config.num_fewshot for name, task in built.items()} == {"pick": 1, "guess": 3}
    assert suite.metric == "acc"  # the group's; the first of pick is acc_norm
    for task in built.values():
        assert {name: better for name, better in task.higher_is_better().items() if name == suite.metric} == {"acc": suite.higher_is_better}
    assert load("pick").metric == "acc_norm"


def test_a_user_s_suite_hides_a_task_of_its_name(own: Path) -> None:
    """A file of the user's comes before lm-eval's task."""
    (own / "benchmarks" / "suites").mkdir()
    (own / "benchmarks" / "suites" / "arc_easy.yaml").write_text("tasks: [pick]\nmetric: acc\n")
    assert load("arc_easy").tasks == ("pick",)
    assert load("lm_eval:arc_easy").tasks == ("arc_easy",)


def measured(name: str, model: LlamaForCausalLM, words: PreTrainedTokenizerBase, **settings: Any) -> Any:
    evaluation = HfEvaluation(**settings)
    prepared = evaluator.prepare(load(name), evaluation)
    found = evaluator.evaluate(prepared, evaluation, model, words, max_length=64, dtype="float32", progress=Silent(), stage="")
    return prepared, found


def test_a_task_under_its_own_name_is_measured(own: Path, random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase) -> None:
    """Its primary score is its metric, with 1 / number of choices as chance."""
    _, found = measured("pick", random_model, words, limit=6)
    (score,) = [one for one in found.scores if one.primary]
    assert (score.metric, score.n, score.status, score.chance) == ("acc_norm", 6, "ok", pytest.approx(1 / 3))


def test_chance_counts_every_right_choice(own: Path, random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase) -> None:
    """Two right ones of three choices are guessed in two of three tries."""
    _, found = measured("several", random_model, words, limit=6)
    (score,) = [one for one in found.scores if one.primary]
    assert score.chance == pytest.approx(2 / 3)


LENGTHS = """task: lengths
include: pick.yaml
doc_to_choice: "{{['is', 'the the the', 'a is a is']}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
num_fewshot: 0
"""
FILLED = """task: filled
include: pick.yaml
doc_to_text: "{{gold}}"
doc_to_choice: "{{['the is', 'a of', 'of a of']}}"
doc_to_target: "it is"
metric_list: [{metric: acc}]
num_fewshot: 0
"""


@pytest.mark.parametrize("backend", [HfEvaluation, PrefixEvaluation])
@pytest.mark.parametrize("task", ["lengths", "filled", "several"])
def test_choices_are_ranked_by_their_mean_log_likelihood_per_token(
    own: Path, random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase, task: str, backend: type[Evaluation]
) -> None:
    """And the right one has its nats.

    Expected values: transformers alone, one choice at a time.
    """
    for name, text in {"lengths": LENGTHS, "filled": FILLED}.items():
        (own / "benchmarks" / "tasks" / f"{name}.yaml").write_text(text)
    task_index._ours.cache_clear()
    judged = {"acc_per_token": Suite(name="s", tasks=(task,), metric="acc_per_token", report=12)}
    judged["nats"] = dataclasses.replace(judged["acc_per_token"], metric="nats_per_token", higher_is_better=False, chance=None)
    evaluation, results = backend(), {}
    for name, suite in judged.items():
        prepared = evaluator.prepare(suite, evaluation)
        results[name] = evaluator.evaluate(
            prepared, evaluation, random_model, words, max_length=64, dtype="float32", progress=Silent(), stage=""
        )
    found, nats = results.values()
    expected, sums, tokens = [], [], []
    for index in prepared.items[task]:
        means, lengths = [], []
        for choice in CHOICES[task]:
            prompt, answer = (f"{choice}", " it is") if task == "filled" else (f"what {index} is", f" {choice}")
            ids, length = (
                words(prompt + answer, return_tensors="pt")["input_ids"],
                len(words(answer, add_special_tokens=False)["input_ids"]),
            )
            with torch.no_grad():
                logits = random_model(ids).logits[0, :-1].log_softmax(-1)
            means.append(float(logits.gather(1, ids[0, 1:, None])[-length:].mean()))
            lengths.append(length)
        right = [0, 1] if task == "several" else [index % 3]
        expected.append(float(means.index(max(means)) in right))
        total, length = max((means[choice] * lengths[choice], lengths[choice]) for choice in right)
        sums.append(-total)
        tokens.append(length)
    assert found.samples["metric.acc_per_token"].tolist() == expected
    (score,) = [one for one in found.scores if one.primary]
    assert (score.metric, score.higher_is_better) == ("acc_per_token", True)
    assert score.value == pytest.approx(sum(expected) / 12)
    (score,) = [one for one in nats.scores if one.primary]
    assert (score.metric, score.higher_is_better) == ("nats_per_token", False)
    assert (nats.samples["metric.nats_per_token"] * tokens).tolist() == pytest.approx(sums, abs=1e-4)
    assert score.value == pytest.approx(sum(sums) / sum(tokens), abs=1e-4)
    assert score.chance == pytest.approx(math.log(random_model.config.vocab_size))
    assert (task != "lengths") or found.samples["metric.acc"].tolist() != expected  # the sum prefers short choices


CHOICES = {
    "lengths": ["is", "the the the", "a is a is"],
    "filled": ["the is", "a of", "of a of"],
    "several": ["the", "of", "a"],
}


@pytest.mark.parametrize("limit", [1, 5, 12])
def test_a_limit_is_a_suite_s_report(own: Path, limit: int) -> None:
    """Same items and identity as with ``report: N``; the suite's own smaller number stays."""
    (own / "benchmarks" / "suites").mkdir()
    for name, report in {"all": "null", "few": str(limit), "fewer": "1"}.items():
        text = f"tasks: [pick]\nmetric: acc\nnum_fewshot: 0\nreport: {report}\nselect: 4\n"
        (own / "benchmarks" / "suites" / f"{name}.yaml").write_text(text)
    limited, own_number = (evaluator.prepare(load(name), HfEvaluation(limit=one)) for name, one in [("all", limit), ("few", None)])
    assert limited.items == own_number.items
    assert limited.content == own_number.content
    assert len(evaluator.prepare(load("fewer"), HfEvaluation(limit=limit)).items["pick"]) == 1
    select = evaluator.prepare(load("all"), HfEvaluation(items="select", limit=limit)).items["pick"]
    whole = evaluator.prepare(load("all"), HfEvaluation(items="select")).items["pick"]
    assert len(select) == min(limit, 4)
    assert set(select) <= set(whole)
    assert not set(select) & set(limited.items["pick"])


def test_a_limit_below_one_is_rejected() -> None:
    """No item is no measurement."""
    with pytest.raises(ConfigError, match=r"evaluation.limit: got 0; allowed: null or greater than 0"):
        HfEvaluation(limit=0)


def test_a_metric_without_a_direction_is_rejected(own: Path) -> None:
    """Neither the task nor lm-eval says whether more of it is better."""
    task = (own / "benchmarks" / "tasks" / "pick.yaml").read_text().replace("task: pick", "task: hits")
    metric = "metric_list: [{metric: hit, aggregation: mean}]\n"
    (own / "benchmarks" / "tasks" / "hits.yaml").write_text(re.sub(r"(?m)^metric_list:.*\n(^ .*\n)*", "", task).rstrip() + "\n" + metric)
    task_index._ours.cache_clear()
    with pytest.raises(ConfigError, match="task hits: metric hit: got no higher_is_better; allowed: true or false"):
        load("hits")


def test_an_own_group_may_list_tasks_of_lm_eval(own: Path) -> None:
    """They are looked up in lm-eval's index; a name in neither is rejected."""
    (own / "benchmarks" / "tasks" / "both.yaml").write_text("group: both\ntask: [pick, arc_easy]\n")
    (own / "benchmarks" / "tasks" / "lost.yaml").write_text("group: lost\ntask: [pick, no_such_task]\n")
    task_index._ours.cache_clear()
    assert load("both").metric == "acc_norm"
    with pytest.raises(ConfigError, match="group lost: task: got 'no_such_task'"):
        load("lost")


STOPPED = {
    "{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}": "more than 1,000,000 steps",
    "{{ 'a' * 10**11 }}": "more than 10,000,000",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "calls nested too deeply",
    "{{ cycler.__init__.__globals__.os.system('true') }}": "unsafe",
    "{{ answers | random }}": "a random draw",
    "{{ nothing }}": "'nothing' is undefined",
    "{% for x in answers %}" * 25 + "{% endfor %}" * 25: "nested blocks",
}


@pytest.mark.parametrize("template", STOPPED)
@pytest.mark.parametrize("key", ["doc_to_text", "doc_to_target", "doc_to_choice"])
def test_templates_of_tasks_that_would_not_end_draw_or_reach_python_are_stopped(own: Path, template: str, key: str) -> None:
    """While the task is built, in one line."""
    file = own / "benchmarks" / "tasks" / "pick.yaml"
    file.write_text(
        "".join(f"{key}: {json.dumps(template)}\n" if line.startswith(key) else f"{line}\n" for line in file.read_text().splitlines())
    )
    with pytest.raises(EvaluationError, match="task pick: got a template that fails") as error:
        build_tasks(load("pick"))
    assert STOPPED[template] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_template_that_is_stopped_at_a_later_document_is_found_before_anything_runs(own: Path) -> None:
    """Its prompts are built when the task is identified."""
    file = own / "benchmarks" / "tasks" / "pick.yaml"
    file.write_text(file.read_text().replace("{{question}}", "{{question}}{% if gold == 2 %}{{ 'a' * 10**11 }}{% endif %}"))
    task = build_tasks(load("pick"))["pick"]
    with pytest.raises(EvaluationError, match="task pick, document 0: got TemplateLimitError: .*more than 10,000,000"):
        hashes.of_task(task, range(20))


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (
            b"task: lost\na0: &a0 [x]\n" + b"".join(b"a%d: &a%d [%s]\n" % (i + 1, i + 1, b", ".join([b"*a%d" % i] * 9)) for i in range(9)),
            "20,000",
        ),
        (b"task: lost\nmine: &a [*a]\n", "a value inside itself"),
        ("task: lost\ndescription: café\n".encode("latin-1"), "UTF-8"),
        (b"task: lost\nmine: " + b"[" * 5000 + b"]" * 5000, "50 nested levels"),
    ],
)
def test_a_task_file_that_lm_eval_leaves_out_is_named(own: Path, content: bytes, got: str) -> None:
    """Where a task of its name is asked for; other tasks of the folder work."""
    assert task_index.unreadable("lost") == ""
    file = own / "benchmarks" / "tasks" / "lost.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"suite: got 'lost'.*correct {re.escape(str(file))} .*{got}"):
        load("lost")
    assert load("pick").metric == "acc_norm"
