"""Tokens without an embedding row, and lengths at which rows of a batch depend on each other."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.config import composition
from harness.core.errors import ConfigError, DataError, EvaluationError, HarnessError
from harness.core.rows import Row, Turn
from harness.evaluation import evaluator
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.suites import Suite
from harness.run import reading
from harness.run.execution import inspect
from harness.run.preparation import Prepared, prepare
from harness.run.workspace import Workspace
from tests.support import tiny

TEMPLATE = "{% for m in messages %}[user]{{ m['content'] }}[end]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"

TEMPLATES = [
    (TEMPLATE, "[user]"),
    (TEMPLATE.replace("[user]", ""), "[end]"),
    ("{{ messages[0]['content'] }}[assistant]", "[assistant]"),
]
"""Each with the first of its tokens that has no row."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a row for each of tinyworld's words, and no chat template."""
    words = composition.member("model", "nursery-smoke-a").tokenizer()
    folder = tmp_path_factory.mktemp("reading") / "base"
    tiny.llama(vocab_size=len(words), max_position_embeddings=64).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def with_tokens(base: Path, folder: Path, *tokens: str, template: str | None = None, **config: Any) -> Path:
    """A copy whose tokenizer has further tokens, beyond the rows of its embedding."""
    shutil.copytree(base, folder)
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text())
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    for number, token in enumerate(tokens, rows):
        values["added_tokens"].append({**values["added_tokens"][-1], "id": number, "content": token})
    file.write_text(json.dumps(values))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    settings = folder / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | config))
    return folder


def prepared(folder: Path, *overrides: str) -> Prepared:
    asked = ["model=hf", f"model.name={folder}", "data=tinyworld-people", "data.volumes=[8]", "probe_suites=[tinyworld]", *overrides]
    return prepare(composition.compose(asked), Workspace())


@pytest.mark.parametrize("key", ["objective.prompt_format", "evaluation.prompt_format"])
@pytest.mark.parametrize(("template", "token"), TEMPLATES)
def test_a_template_whose_tokens_have_no_row_is_rejected(base: Path, tmp_path: Path, key: str, template: str, token: str) -> None:
    """Of a user's turn, of every turn's end, of the generation prompt; for training and measuring.

    With prompt_format=plain the model is used: its tokenizer only knows more than it needs.
    """
    folder = with_tokens(base, tmp_path / "chat", "[user]", "[end]", "[assistant]", template=template)
    with pytest.raises(
        ConfigError, match=rf"{key}: got chat, with .*, whose template writes '{re.escape(token)}' .*the model has \d+ embedding rows"
    ):
        prepared(folder, f"{key}=chat")
    prepared(folder)


def test_a_template_of_known_tokens_is_used(base: Path, tmp_path: Path) -> None:
    """An image token that no text has does not matter."""
    folder = with_tokens(base, tmp_path / "chat", "<image>", template="{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}")
    prepared(folder, "objective.prompt_format=chat")


def test_a_training_row_with_a_token_that_has_no_row_is_rejected(base: Path, tmp_path: Path) -> None:
    folder, file = with_tokens(base, tmp_path / "image", "<image>"), tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i}", "completion": " a <image>" if i == 5 else " a"}) + "\n" for i in range(8)))
    run = prepared(folder, "data=files", f"data.train={file}")
    with pytest.raises(DataError, match=r"data: got token \d+ in the target row that begins '5 a <image>'; allowed: tokens 0 to"):
        inspect(run)


def test_an_item_of_a_suite_with_a_token_that_has_no_row_is_rejected(base: Path, tmp_path: Path) -> None:
    """Instead of an index error in the middle of a measurement."""
    run = prepared(with_tokens(base, tmp_path / "image", "<image>"))
    tokenizer = run.workspace.tokenizer_of(run.config)
    rows = [Row((Turn("user", text), Turn("assistant", " a")), "completion") for text in ("1", "see <image>")]
    suite = Suite(name="seen", kind="likelihood", data="rows", metric="nats_per_token", higher_is_better=False)
    with pytest.raises(EvaluationError, match=r"suite seen, row 2: got '<image>' \(token \d+\) in its text"):
        reading.check_suite(evaluator.prepare(suite, HfEvaluation(), rows), run.facts, tokenizer)


def rejection(run: Prepared) -> HarnessError | None:
    try:
        inspect(run)
    except HarnessError as error:
        return error
    return None


@pytest.mark.parametrize(("length", "accepted"), [(32, True), (33, False)])
def test_rows_are_not_trained_at_lengths_where_they_depend_on_their_batch(base: Path, tmp_path: Path, length: int, accepted: bool) -> None:
    """Dynamic positions of a model of 32 tokens that reads up to 64."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    folder = with_tokens(base, tmp_path / "dynamic", rope_parameters=rope, max_position_embeddings=32)
    run = prepared(folder, "model.context_length=64", f"training.max_length={length}")
    found = rejection(run)
    assert (found is None) == accepted
    assert accepted or "training.max_length: got 33" in str(found)
    assert accepted or "fix: training.max_length=32" in str(found)


def test_evaluation_ids_change_where_scores_do(base: Path, tmp_path: Path) -> None:
    """An appended EOS that is left out, and requests that run alone; no other model's id."""
    run = prepared(base)
    suite, tokenizer = run.workspace.suite_of("tinyworld", run.config), run.workspace.tokenizer_of(run.config)
    assert reading.identity(suite, run.facts, tokenizer) == {}
    assert set(run.evaluations["tinyworld"]["model"]) == {"content", "tokenizer", "context_length"}
    longer = dataclasses.replace(run.facts, batch_limit=32)
    assert reading.identity(suite, longer, tokenizer) == {"alone_above": 32}
    assert reading.identity(suite, dataclasses.replace(longer, context_length=32), tokenizer) == {}
    from tests.support.appending import APPENDING

    assert reading.identity(suite, run.facts, APPENDING["template"]()) == {"left_out_after_texts": [tiny.EOS]}
