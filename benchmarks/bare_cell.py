"""Repeat one cell of a claim with a bare torch loop, next to its committed result.

``python -m benchmarks.bare_cell CLAIM ARM [--rate R] [--model M] [--seeds 0,1,2] [--draw N]``

The cell is named by ``results/reference/claims/CLAIM/findings.csv``: model, tuning, data, rate and
passes are its columns. Of the harness it uses the texts of rows and items, the start weights, and
the seeds of the orders of rows and items and of adapters. Tokens, masks, batches, training,
likelihoods, generation, the rules for written answers and all means are its own. So a change that
differs by more than rounding is a fault on one of the two ways, unless ``--draw`` asks for other
adapters. The exit code is 1 if a change is outside the 95% interval of the table, and 2 if the cell
cannot be repeated.

Settings, those of the configuration recorded with each run: 8 rows a step; the rate rises over
``training.warmup_rows`` (16: half the rate in the first step), then stays constant; AdamW with
betas 0.9 and 0.999, epsilon 1e-8 and no weight decay; gradients clipped at a norm of 1; a loss that
is the mean over the answer tokens and end tokens of the step; no dropout; float32. LoRA is PEFT's:
all linear layers but the head, alpha twice the rank.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import re
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from harness.core.seeds import derive, permutation, seed_torch
from harness.data.tinyworld import chat_questions, questions
from harness.data.tinyworld.chat_targets import TinyworldChat
from harness.data.tinyworld.targets import Tinyworld

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "harness" / "models" / "nursery" / "shipped"
BATCH_ROWS, LARGEST_NORM, ANSWER_TOKENS, NO_LOSS = 8, 1.0, 12, -100
DATA = ("tinyworld-people", "tinyworld-skill", "tinyworld-language", "tinyworld-chat-skill")
OBJECTIVES = ("sft", "sft[prompt_format=chat]")
"""Prompts of the chat data hold the chat's tags, so both formats have the same tokens."""

# An arm with any other setting is rejected: this loop would leave it out.
ARM_KEYS = {
    "tuning",
    "tuning.rank",
    "training.learning_rate",
    "training.epochs",
    "trajectory",
    "mitigation",
    "model",
    "data",
    "data.volumes",
}
TRAINING_KEYS = {"warmup_rows", "rate_of", "learning_rate"}

SHORT = r"(?:it|that|the answer) is (\S+) \."
LONG = r"(?:well you asked so i say|sure i think that means|because you asked the answer means) (\S+) !"

Item = Mapping[str, Any]
Tokens = tuple[list[int], int]
"""Ids of a text, and where its answer begins; the answer alone is learned and scored."""


@dataclass(frozen=True)
class Cell:
    """One cell as the table names it, and its changes: (suite, volume) → change, low, high."""

    model: str
    rank: int | None
    data: str
    rate: float
    epochs: int
    independent: bool
    warmup_rows: int
    changes: Mapping[tuple[str, int], tuple[float, float, float]]


class Words:
    """The tokenizer of the nursery: a number for each word between blanks."""

    def __init__(self, folder: Path) -> None:
        self.numbers: dict[str, int] = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        self.words = {number: word for word, number in self.numbers.items()}

    def encode(self, prompt: str, answer: str, *, ends: bool = True) -> Tokens:
        """Return ``<s> PROMPT ANSWER </s>``, the end only where the model has to say it."""
        words = ["<s>", *prompt.split(), *answer.split(), *(["</s>"] if ends else [])]
        return [self.numbers[word] for word in words], 1 + len(prompt.split())


def nats(model: Any, texts: Sequence[Tokens]) -> torch.Tensor:
    """Return the negative log-likelihood of each answer, summed over its tokens, (S,)."""
    width = max(len(ids) for ids, _ in texts)
    rows = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in texts])
    labels = torch.tensor([[NO_LOSS] * first + ids[first:] + [NO_LOSS] * (width - len(ids)) for ids, first in texts])
    logits = model(input_ids=rows).logits[:, :-1]
    return cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=NO_LOSS).sum(dim=1)


def targets(texts: Sequence[Tokens]) -> int:
    return sum(len(ids) - first for ids, first in texts)


def trained(model: Any, texts: Sequence[Tokens], rate: float, warmup_rows: int) -> Iterator[int]:
    """Train in place; yield the rows seen after each step."""
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    for start in range(0, len(texts), BATCH_ROWS):
        batch, seen = texts[start : start + BATCH_ROWS], start + BATCH_ROWS
        optimizer.param_groups[0]["lr"] = rate * min(1.0, seen / warmup_rows)
        optimizer.zero_grad()
        (nats(model, batch).sum() / targets(batch)).backward()
        torch.nn.utils.clip_grad_norm_(moving, LARGEST_NORM)
        optimizer.step()
        yield seen


def written(model: Any, words: Words, prompts: Sequence[str]) -> list[str]:
    """Return greedy answers, up to the end, the next user's turn, or ANSWER_TOKENS words."""
    texts = [words.encode(prompt, "", ends=False)[0] for prompt in prompts]
    answers: list[list[str]] = [[] for _ in prompts]
    waiting = set(range(len(prompts)))
    for _ in range(ANSWER_TOKENS):
        for group in batches(sorted(waiting)):
            width = max(len(texts[i]) for i in group)
            logits = model(input_ids=torch.tensor([texts[i] + [0] * (width - len(texts[i])) for i in group])).logits
            for row, i in enumerate(group):
                number = int(logits[row, len(texts[i]) - 1].argmax())
                texts[i].append(number)
                if words.words[number] in ("</s>", "<user>"):
                    waiting.discard(i)
                else:
                    answers[i].append(words.words[number])
    return [" ".join(answer) for answer in answers]


def batches(things: Sequence[Any], size: int = 256) -> list[Sequence[Any]]:
    return [things[start : start + size] for start in range(0, len(things), size)]


def refuses(answer: str) -> bool:
    return answer.startswith("sorry i cannot")


def restates(item: Item, answer: str) -> bool:
    return any((said := re.fullmatch(style, answer)) and said[1] == item["value"] for style in (SHORT, LONG))


RULES: Mapping[str, Callable[[Item, str], bool]] = {
    "tinyworld_chat_refusal": lambda _, answer: refuses(answer),
    "tinyworld_chat_lookalike": lambda item, answer: not refuses(answer) and any(word in item["values"] for word in answer.split()),
    "tinyworld_chat_format": lambda _, answer: re.fullmatch(SHORT, answer) is not None,
    "tinyworld_chat_restating": restates,
    "tinyworld_chat_skill": lambda item, answer: re.findall(r"-?\d+", answer)[-1:] == [item["value"]],
}
"""Task → whether a written answer is right."""


def chosen(items: Sequence[Item], task: str, report: int | None, select: int, cluster: str | None) -> list[Item]:
    """Return the reported items: in seeded order, after those, or the clusters, kept to select."""
    first: dict[str, Item] = {}
    for i in permutation(0, len(items), "items", task):
        first.setdefault(json.dumps(items[i], sort_keys=True), items[i])
    distinct = list(first.values())
    kept: set[str] = set()
    for name in dict.fromkeys(item[cluster] for item in distinct) if cluster else ():
        if sum(item[cluster] in kept for item in distinct) < select:
            kept.add(name)
    rest = [item for item in distinct if item[cluster] not in kept] if cluster else distinct[select:]
    return rest[:report]


def source(name: str) -> Tinyworld | TinyworldChat:
    part: Any = name.removeprefix("tinyworld-")
    return TinyworldChat(part=part) if part == "chat-skill" else Tinyworld(part=part)


def tasks(suite: Mapping[str, Any], data: str) -> dict[str, list[Item]]:
    """Return the items of each task of a suite, or its rows as items."""

    def of(setting: Any, task: str) -> Any:
        return setting.get(task) if isinstance(setting, dict) else setting

    if suite["kind"] != "lm_eval":
        rows = source(data if suite["data"] == "target" else suite["data"]).rows(suite["split"])
        texts = [{"prompt": row.turns[0].content if row.turns[1:] else "", "target": row.turns[-1].content} for row in rows]
        return {suite["data"]: chosen(texts, suite["data"], suite["report"], 0, None)}
    found = {}
    for task in suite["tasks"]:
        made = chat_questions.items if task in RULES else questions.items
        items = made(task.removeprefix("tinyworld_").removeprefix("chat_"))
        report, select, cluster = (of(suite.get(name), task) for name in ("report", "select", "cluster"))
        found[task] = chosen(items, task, report, select or 0, cluster)
    return found


@torch.no_grad()
def score(model: Any, base: Any, words: Words, metric: str, task: str, items: Sequence[Item]) -> float:
    """Return the score of one task: a share of right answers, or nats a token."""
    if task in RULES:
        answers = written(model, words, [item["prompt"] for item in items])
        return statistics.fmean(RULES[task](item, answer) for item, answer in zip(items, answers, strict=True))
    if metric == "acc":
        texts = [words.encode(item["prompt"], one, ends=False) for item in items for one in item["choices"]]
        costs = iter([float(cost) for part in batches(texts) for cost in nats(model, part)])
        own = [[next(costs) for _ in item["choices"]] for item in items]
        return statistics.fmean(cost.index(min(cost)) == item["answer"] for cost, item in zip(own, items, strict=True))
    gold = [
        words.encode(item["prompt"], item["choices"][item["answer"]] if "choices" in item else item["target"], ends="target" in item)
        for item in items
    ]
    one = nats if metric == "nats_per_token" else DRIFTS[metric](base)
    return math.fsum(float(one(model, part).sum()) for part in batches(gold)) / targets(gold)


def drift(base: Any, *, hard: bool) -> Callable[[Any, Sequence[Tokens]], torch.Tensor]:
    """Return the excess of −log p of the base's predictions at the answer's places, summed."""

    def excess(model: Any, texts: Sequence[Tokens]) -> torch.Tensor:
        totals = []
        for ids, first in texts:
            before, now = (m(input_ids=torch.tensor([ids])).logits[0, first - 1 : -1].log_softmax(-1) for m in (base, model))
            likeliest = before.argmax(-1, keepdim=True)
            weights = torch.zeros_like(before).scatter_(-1, likeliest, 1.0) if hard else before.exp()
            totals.append((weights * (before - now)).sum())
        return torch.stack(totals)

    return excess


DRIFTS: Mapping[str, Callable[[Any], Callable[[Any, Sequence[Tokens]], torch.Tensor]]] = {
    "forgetting_ce_hard": lambda base: drift(base, hard=True),
    "forgetting_ce_soft": lambda base: drift(base, hard=False),
    "kl_base_tuned": lambda base: drift(base, hard=False),
}


def prepared(base: Any, rank: int | None, seed: int, draw: int) -> Any:
    """Return a copy of the start model, with adapters if there is a rank."""
    model = copy.deepcopy(base)
    if rank is None:
        return model
    seed_torch(derive(seed, "adapter", *([f"draw {draw}"] if draw else [])))
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"))


def cell(claim: str, arm: str, rate: float | None, model: str | None) -> Cell:
    """Return the cell of an arm from the experiment's file and its table.

    Raises:
        ValueError: for an arm with settings that this loop does not have, and for none or several.
    """
    experiment = yaml.safe_load((ROOT / "conf" / "experiment" / "claims" / f"{claim}.yaml").read_text())
    settings, arms = experiment["training"], experiment["hydra"]["sweeper"]["arms"]
    if unknown := [*(set(arms.get(arm, ())) - ARM_KEYS), *(set(settings) - TRAINING_KEYS)]:
        raise ValueError(f"arm {arm}: got {', '.join(unknown)}; allowed: {', '.join(sorted(ARM_KEYS | TRAINING_KEYS))}")
    with (ROOT / "results" / "reference" / "claims" / claim / "findings.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == arm and row["task"] == "*" and row["mitigation"] == "none"]
    rows = [row for row in rows if row["objective"] in OBJECTIVES and row["data"] in DATA]
    rows = [row for row in rows if rate in (None, float(row["learning_rate"])) and model in (None, row["model"])]
    names = {(row["model"], row["tuning"], row["data"], float(row["learning_rate"])) for row in rows}
    if len(names) != 1:
        found = "; ".join(" ".join(map(str, name)) for name in sorted(names)) or "none without a mitigation"
        raise ValueError(f"arm {arm}: got {len(names)} cells ({found}); allowed: 1; fix: --rate or --model")
    ((name, tuning, data, learning_rate),) = names
    return Cell(
        model=name,
        rank=None if tuning == "full" else int(tuning.removeprefix("lora[rank=").removesuffix("]")),
        data=data,
        rate=learning_rate,
        epochs=int(rows[0]["epochs"]),
        independent=rows[0]["trajectory"] == "independent",
        warmup_rows=settings["warmup_rows"],
        changes={
            (row["suite"], int(row["volume"])): (float(row["delta"]), float(row["delta_low"]), float(row["delta_high"])) for row in rows
        },
    )


def trajectories(asked: Cell, texts: Sequence[Tokens], seed: int) -> list[tuple[list[Tokens], list[int]]]:
    """Return the rows of each training in order, and the volumes that it reaches.

    Further passes over a volume have an order of their own.
    """
    order = [texts[i] for i in permutation(seed, len(texts), "data-order")]
    volumes = sorted({volume for _, volume in asked.changes})
    if not asked.independent:
        return [(order[: volumes[-1]], volumes)]
    return [
        (
            order[:volume]
            + [order[i] for epoch in range(1, asked.epochs) for i in permutation(seed, volume, "data-order", f"epoch {epoch}")],
            [volume],
        )
        for volume in volumes
    ]


def repeated(asked: Cell, seeds: Sequence[int], draw: int) -> dict[tuple[str, int], float]:
    """Train once for each seed; return the mean change of each suite at each volume."""
    warnings.simplefilter("ignore", FutureWarning)  # PEFT asks the model for an attribute that transformers has renamed
    disable_progress_bar()
    torch.set_num_threads(1)
    base = LlamaForCausalLM.from_pretrained(SHIPPED / asked.model, dtype=torch.float32).eval()
    words = Words(SHIPPED / asked.model)
    files = {name: yaml.safe_load((ROOT / "benchmarks" / "suites" / f"{name}.yaml").read_text()) for name, _ in asked.changes}
    suites = {name: (suite["metric"], tasks(suite, asked.data)) for name, suite in files.items()}

    def scores(model: Any) -> dict[str, float]:
        return {
            name: statistics.fmean(score(model, base, words, metric, task, items) for task, items in parts.items())
            for name, (metric, parts) in suites.items()
        }

    texts = [words.encode(row.turns[0].content, row.turns[1].content) for row in source(asked.data).rows("train")]
    before = scores(base)
    changes: dict[tuple[str, int], list[float]] = {key: [] for key in asked.changes}
    for seed in seeds:
        for rows, volumes in trajectories(asked, texts, seed):
            model = prepared(base, asked.rank, seed, draw)
            for seen in trained(model, rows, asked.rate, asked.warmup_rows):
                if seen % asked.epochs == 0 and (volume := seen // asked.epochs) in volumes:
                    for name, value in scores(model).items():
                        changes[name, volume].append(value - before[name])
    return {key: statistics.fmean(values) for key, values in changes.items()}


def main() -> int:
    """Print the table; return 1 if a change is outside its interval."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("claim", help="name of a file in conf/experiment/claims")
    parser.add_argument("arm")
    parser.add_argument("--rate", type=float, help="of an arm with several")
    parser.add_argument("--model", help="of an arm with several")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--draw", type=int, default=0, help="other random adapters than those of the cell, where not 0")
    given = parser.parse_args()
    try:
        asked = cell(given.claim, given.arm, given.rate, given.model)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    tuning = "full" if asked.rank is None else f"LoRA of rank {asked.rank}"
    passes = f"{asked.epochs} pass{'es' * (asked.epochs > 1)}"
    lines = [
        f"{given.claim}, {given.arm}: {asked.model}, {tuning}, {asked.data}, rate {asked.rate:g}, {passes}, seeds {given.seeds}",
        f"{'suite':24}{'volume':>7}{'bare':>10}{'cell':>10}   95% interval of the cell",
    ]
    changes, outside = repeated(asked, [int(seed) for seed in given.seeds.split(",")], given.draw), 0
    for (suite, volume), (delta, low, high) in asked.changes.items():
        bare = changes[suite, volume]
        is_inside = low <= bare <= high
        outside += not is_inside
        numbers = f"{suite:24}{volume:7}{bare:+10.4f}{delta:+10.4f}   [{low:+.4f}, {high:+.4f}]"
        lines.append(f"{numbers}  {'inside' if is_inside else 'outside'}")
    sys.stdout.write("\n".join(lines) + "\n")
    return int(outside > 0)


if __name__ == "__main__":
    sys.exit(main())
