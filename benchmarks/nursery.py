"""`make nursery`: pretrain the shipped models anew, and compare them with the shipped ones.

Each model is a unit: after an interruption, the same command does what is missing. Base models are
also pretrained on twice the tokens, which shows how much is left to learn. With ``--write``, the
new models replace the shipped ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from harness.config.composition import member
from harness.core.progress import Silent
from harness.data.tinyworld import vocabulary, world
from harness.evaluation import backends, evaluator, suites
from harness.models.nursery.chat import NurseryChat
from harness.models.nursery.family import NOTES, SHIPPED, Nursery, loaded
from harness.models.weights import WEIGHTS

FAMILY: Mapping[str, str | None] = {
    "nursery-xl": None,
    "nursery-l": "nursery-l-chat",
    "nursery-m": "nursery-m-chat",
    "nursery-s": "nursery-s-chat",
    "nursery-xs": None,
}
"""Base model → its chat partner; the slowest first."""

TWICE = "twice"
"""Folder of the base models on twice their tokens."""

CONVERGED = 0.02
"""Largest share of the loss of last words that twice the tokens may remove by better facts and
sums. The verb of a sentence is chance: a lower loss of it is memorised texts, not knowledge."""

KNOWABLE = ("facts", "arithmetic")
KINDS = (*KNOWABLE, "grammar")
BASE_SUITES, CHAT_SUITES = ("tinyworld",), ("tinyworld", "tinyworld_chat", "tinyworld-chat-skill")


def last_words(model: PreTrainedModel) -> dict[str, float]:
    """Return the mean loss of the last word of base texts in nats, by kind and for all."""
    number = {word: i for i, word in enumerate(vocabulary.VOCABULARY)}
    by_kind: dict[str, dict[int, list[list[int]]]] = {kind: {} for kind in KINDS}
    for text in world.documents():
        ids = [number[vocabulary.BEGIN], *(number[word] for word in text.split())]
        by_kind[_kind(text)].setdefault(len(ids), []).append(ids)
    sums = {kind: _sum(model, of_length.values()) for kind, of_length in by_kind.items()}
    counts = {kind: sum(map(len, of_length.values())) for kind, of_length in by_kind.items()}
    return {kind: sums[kind] / counts[kind] for kind in KINDS} | {"all": sum(sums.values()) / sum(counts.values())}


def _kind(text: str) -> str:
    if any(f" {sign} " in text for sign in vocabulary.SIGNS):
        return "arithmetic"
    return "grammar" if text.startswith("the ") else "facts"


@torch.no_grad()
def _sum(model: PreTrainedModel, batches: Iterable[list[list[int]]]) -> float:
    """Return the summed loss of the last word of texts, batches of equal lengths."""
    total = 0.0
    for batch in map(torch.tensor, batches):
        for ids in batch.split(256):
            total += float(cross_entropy(model(input_ids=ids).logits[:, -2], ids[:, -1], reduction="sum"))
    return total


def accuracies(nursery: Nursery, model: PreTrainedModel) -> dict[str, float]:
    """Return task → score on the reported items."""
    found = {}
    for name in CHAT_SUITES if isinstance(nursery, NurseryChat) else BASE_SUITES:
        evaluation = backends.HfEvaluation()
        prepared = evaluator.prepare(suites.load(name), evaluation)
        result = evaluator.evaluate(
            prepared, evaluation, model, nursery.tokenizer(), max_length=nursery.context, dtype="float32", progress=Silent(), stage=""
        )
        found |= {score.task: float(score.value) for score in result.scores if score.primary and score.value is not None}
    return found


Scores = dict[str, dict[str, float]]
"""``accuracy``: task → score, and ``accuracy_of_twice`` on twice the tokens; for base models also
``last_word``: kind → loss in nats, and ``last_word_of_twice``."""


def scored(folder: Path, name: str) -> Scores:
    """Return the scores of a pretrained model."""
    nursery, model = member("model", name), loaded(folder / name)
    found = {"accuracy": accuracies(nursery, model)}
    if name in FAMILY:
        twice = loaded(folder / TWICE / name)
        found |= {"last_word": last_words(model), "last_word_of_twice": last_words(twice), "accuracy_of_twice": accuracies(nursery, twice)}
    return found


def _made(nursery: Nursery, folder: Path, start: Path | None = None) -> None:
    """Pretrain a model into a folder, unless it is there."""
    if (folder / NOTES).is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
        nursery.make(Path(temporary) / "model", start)
        (Path(temporary) / "model").rename(folder)


def _unit(folder: Path, name: str, *, twice: bool) -> str:
    """Pretrain a base model and its chat partner, or the base model on twice the tokens."""
    torch.set_num_threads(1)
    base: Nursery = member("model", name)
    if twice:
        _made(dataclasses.replace(base, tokens=2 * base.tokens), folder / TWICE / name)
        return f"{name} on twice the tokens"
    _made(base, folder / name)
    if (partner := FAMILY[name]) is not None:
        _made(member("model", partner), folder / partner, folder / name)
    return " and ".join(filter(None, (name, partner)))


def names() -> list[str]:
    """Return the shipped models, base models first."""
    return [*sorted(FAMILY, reverse=True), *sorted(filter(None, FAMILY.values()), reverse=True)]


def left_to_learn(scores: Scores) -> float:
    """Return the share of the loss of last words that better facts and sums would remove."""
    lower = {kind: scores["last_word"][kind] - scores["last_word_of_twice"][kind] for kind in KNOWABLE}
    return sum(world.SHARES[kind] * lower[kind] for kind in KNOWABLE) / scores["last_word"]["all"]


def compared(folder: Path, name: str, scores: Scores) -> str:
    """Return a line on a model's scores, and how they differ from the shipped model's."""
    line = f"{name:15} {', '.join(f'{task} {value:.3f}' for task, value in scores['accuracy'].items())}"
    if "last_word" in scores:
        left = {kind: loss - scores["last_word_of_twice"][kind] for kind, loss in scores["last_word"].items()}
        share = left_to_learn(scores)
        told = "" if share < CONVERGED else f", more than {CONVERGED:.0%}"
        losses = ", ".join(f"{kind} {loss:.4f} ({-left[kind]:+.4f})" for kind, loss in scores["last_word"].items())
        line += f"; nats of last words (with twice the tokens): {losses}; better facts and sums are {share:.1%} of it{told}"
        line += f"; with twice the tokens: {', '.join(f'{task} {value:.3f}' for task, value in scores['accuracy_of_twice'].items())}"
    file = SHIPPED / name / NOTES
    if not file.is_file():
        return line
    old, new = json.loads(file.read_text()), json.loads((folder / name / NOTES).read_text())
    if old["files"][WEIGHTS] == new["files"][WEIGHTS]:
        return f"{line}; the weights are the shipped ones"
    known = old["scores"]["accuracy"]
    moved = {task: value - known[task] for task, value in scores["accuracy"].items() if task in known}
    task = max(moved, key=lambda one: abs(moved[one]))
    return f"{line}; from the shipped model at most {moved[task]:+.3f} ({task})"


def ship(folder: Path, scores: Mapping[str, Scores]) -> None:
    """Replace the shipped models by those of a folder, with their scores in NOTES."""
    made = SHIPPED.with_name(f".{SHIPPED.name}")
    shutil.rmtree(made, ignore_errors=True)
    for name, of_model in scores.items():
        shutil.copytree(folder / name, made / name)
        rounded = {kind: {key: round(value, 5) for key, value in values.items()} for kind, values in of_model.items()}
        notes = json.loads((made / name / NOTES).read_text()) | {"scores": rounded}
        (made / name / NOTES).write_text(json.dumps(notes, indent=1) + "\n")
    shutil.rmtree(SHIPPED, ignore_errors=True)
    made.rename(SHIPPED)


def main(argv: Sequence[str]) -> None:
    """Pretrain, compare and perhaps write the family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".cache/nursery"), help="where the new models are kept")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--write", action="store_true", help="replace the shipped models")
    arguments = parser.parse_args(argv)
    folder = arguments.folder.resolve()
    logging.basicConfig(level=logging.WARNING)
    with ProcessPoolExecutor(arguments.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        units = [pool.submit(_unit, folder, name, twice=twice) for twice in (False, True) for name in FAMILY]
        for unit in units:
            sys.stderr.write(f"{unit.result()}: pretrained\n")
    scores = {name: scored(folder, name) for name in names()}
    sys.stdout.write("".join(f"{compared(folder, name, scores[name])}\n" for name in names()))
    left = [name for name, of in scores.items() if "last_word" in of and left_to_learn(of) >= CONVERGED]
    if left:
        raise SystemExit(
            f"nursery: {', '.join(left)}: got facts and sums still to learn; allowed: less than {CONVERGED:.0%}; fix: more tokens"
        )
    if arguments.write:
        ship(folder, scores)


if __name__ == "__main__":
    main(sys.argv[1:])
