"""Scores from items, by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from harness.core.progress import Silent
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.samples import averaged_metrics, failed, rows_of, scores_of
from harness.evaluation.suites import Suite

SUITE = Suite(name="s", tasks=("t",), metric="acc")


def items(**columns: list[float]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    fixed = {"task": ["t"] * n, "filter": ["none"] * n, "chance": [0.25] * n}
    fixed |= {name: [False] * n for name in ["unparsed", "prompt_truncated", "answer_truncated"]}
    return pd.DataFrame(fixed | {name.replace("__", "."): values for name, values in columns.items()})


def test_the_value_is_the_mean_and_its_error_that_of_a_mean() -> None:
    """Items 1, 1, 0, 0: mean 1/2, sample deviation sqrt(1/3), over sqrt(4)."""
    (score,) = scores_of(SUITE, items(metric__acc=[1.0, 1.0, 0.0, 0.0]), {})
    assert (score.value, score.n, score.chance, score.primary) == (0.5, 4, 0.25, True)
    assert score.stderr == pytest.approx(math.sqrt(1 / 3) / 2)


def test_a_ratio_metric_is_total_over_total() -> None:
    """10 nats on 2 tokens and 8 on 8 are 1.8 per token, not 3."""
    suite = Suite(name="s", kind="likelihood", data="d", metric="nats_per_token", higher_is_better=False, chance=None)
    (score,) = scores_of(suite, items(metric__nats_per_token=[5.0, 1.0], weight__nats_per_token=[2.0, 8.0]), {})
    assert score.value == pytest.approx(1.8)
    assert score.stderr == pytest.approx(math.sqrt(2 * ((2 * 3.2) ** 2 + (8 * 0.8) ** 2)) / 10)
    assert not score.higher_is_better


def test_a_metric_other_than_the_suites_is_kept_but_not_primary() -> None:
    """The table has acc and acc_norm; the suite decides which is primary."""
    found = scores_of(SUITE, items(metric__acc=[1.0, 0.0], metric__acc_norm=[1.0, 1.0]), {"acc_norm": True})
    assert {score.metric: score.primary for score in found} == {"acc": True, "acc_norm": False}


def test_a_task_that_failed_has_a_reason_and_no_value() -> None:
    """A failed measurement is never a score of 0."""
    score = failed(SUITE, "t", "RuntimeError: out of\nmemory")
    assert (score.status, score.value, score.reason) == ("failed", None, "RuntimeError: out of memory")


def test_only_metrics_that_are_means_over_items_are_kept() -> None:
    """A perplexity or a correlation has no per-item value whose mean is the score."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def perplexity(values: list[float]) -> float:
        return math.exp(-mean(values))

    task = SimpleNamespace(OUTPUT_TYPE="loglikelihood", aggregation=lambda: {"acc": mean, "perplexity": perplexity})
    assert averaged_metrics(task) == ["acc"]


@pytest.fixture(scope="module")
def lm(random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase) -> Any:
    return HfEvaluation(batch_size=2).model(random_model, words, 8, "float32", Silent(), "")


def logged(lm: Any, requests: list[tuple[Any, ...]], responses: list[Any]) -> dict[str, Any]:
    hashes = {"doc_hash": "d", "prompt_hash": "p", "target_hash": "t", "doc_id": 0, "doc": {}, "target": "0", "filter": "none"}
    return hashes | {"arguments": requests, "resps": [[response] for response in responses], "filtered_resps": responses, "acc": 1.0}


def task_of(kind: str, filters: list[dict[str, Any]] | None = None) -> Any:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    config = SimpleNamespace(filter_list=filters, process_results=None)
    return SimpleNamespace(OUTPUT_TYPE=kind, config=config, aggregation=lambda: {"acc": mean}, doc_to_text=lambda _: "q")


@pytest.mark.parametrize(("words_before", "cut"), [(6, False), (7, False), (8, True)])
def test_a_prompt_is_cut_where_it_and_a_choice_do_not_fit(lm: Any, words_before: int, cut: bool) -> None:
    """BOS and 7 words fill all 8 places: the choice's token is not an input.

    One word more pushes BOS out.
    """
    prompt = " ".join(["the"] * words_before)
    (row,) = rows_of(SUITE, "t", task_of("multiple_choice"), [logged(lm, [(prompt, " king"), (prompt, " kings")], [(-1.0, False)] * 2)], lm)
    assert (row["prompt_truncated"], row["answer_truncated"], row["unparsed"]) == (cut, False, False)


@pytest.mark.parametrize(("words_before", "cut"), [(4, False), (5, False), (6, True)])
def test_a_prompt_is_cut_where_no_room_for_the_answer_is_left(lm: Any, words_before: int, cut: bool) -> None:
    """Two tokens are generated, so 6 places are left: BOS and 5 words."""
    request = (" ".join(["the"] * words_before), {"until": ["\n"], "max_gen_toks": 2, "do_sample": False})
    (row,) = rows_of(SUITE, "t", task_of("generate_until"), [logged(lm, [request], ["king"])], lm)
    assert row["prompt_truncated"] == cut


def test_an_answer_that_only_its_length_limit_ended_is_known(lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two answers of one batch, one meets its end, one its limit.

    So does a prompt that was cut.
    """
    end, pad, words = lm.tokenizer.eos_token_id, lm.tokenizer.pad_token_id, lm.tokenizer.encode("the king", add_special_tokens=False)
    written = {5: [words[0], end, pad], 4: [words[1], words[0], words[1]], 3: [words[1], words[0], end]}

    def generate(input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        answers = torch.tensor([written[int(mask.sum())] for mask in attention_mask])
        return torch.cat([input_ids, answers], dim=1)

    monkeypatch.setattr(lm.model, "generate", generate)
    settings = {"until": ["\n"], "max_gen_toks": 3, "do_sample": False}
    requests = [(" ".join(["the"] * count), settings) for count in (4, 3, 2)]
    answers = lm.generate_until([SimpleNamespace(args=request) for request in requests])
    assert answers == ["the", "king the king", "king the"]
    rows = [rows_of(SUITE, "t", task_of("generate_until"), [logged(lm, [r], [a])], lm)[0] for r, a in zip(requests, answers, strict=True)]
    assert [row["answer_truncated"] for row in rows] == [False, True, False]


def test_an_answer_is_unparsed_where_its_filter_says_so(lm: Any) -> None:
    """Each filter has its own mark, also inside a list.

    The mark of another filter is an answer.
    """
    filters = [
        {"name": "strict", "filter": [{"function": "regex", "regex_pattern": "x"}, {"function": "take_first"}]},
        {"name": "other", "filter": [{"function": "regex", "fallback": "none"}]},
        {"name": "none", "filter": [{"function": "take_first"}]},
    ]
    request = ("the", {"until": ["\n"], "max_gen_toks": 2})
    found = {}
    for name, response in [("strict", "[invalid]"), ("strict", "42"), ("other", ["none"]), ("other", ["[invalid]"]), ("none", "[invalid]")]:
        sample = logged(lm, [request], ["text"]) | {"filter": name, "filtered_resps": [response]}
        found[name, str(response)] = rows_of(SUITE, "t", task_of("generate_until", filters), [sample], lm)[0]["unparsed"]
    assert [key for key, unparsed in found.items() if unparsed] == [("strict", "[invalid]"), ("other", "['none']")]
