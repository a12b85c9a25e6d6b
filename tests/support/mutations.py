"""Mutated copies of input files: ``python -m tests.support.mutations [KIND …]`` tries more.

Each case has a number, from which its mutation follows. A command that reads a mutated file may
accept it or reject it in one line; it may not raise, print a traceback, or take long.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd
import yaml

from harness.cli.app import main
from harness.evaluation import task_index
from tests.support import inspect_logs, lm_eval_logs

GOLDEN = Path(__file__).parent.parent / "golden" / "small"

SECONDS = 60
"""That one command may take."""

VALUES: tuple[Any, ...] = (
    *(None, True, 0, 5, -1, 10**30, 1e300, float("nan"), float("inf")),
    *("", "x", "5", "\x00", "\ud800", "~no-such-user/x", "é" * 10),
    *([], {}, [None], [[[]]], {"a": None}, [1, "x"]),
)


@dataclass(frozen=True)
class Kind:
    """A kind of input file.

    Attributes:
        write: writes a folder of files that are right.
        commands: that read them; ``@`` is the folder.
        own: whether the folder is one of HARNESS_PATH.
    """

    write: Callable[[Path], object]
    commands: Sequence[str]
    own: bool = False


@dataclass(frozen=True)
class Outcome:
    """The end of a command: its exit code, standard error, and a fault, which is empty if none."""

    code: int
    err: str
    fault: str = ""


def tried(name: str, number: int, folder: Path) -> Iterator[tuple[str, Outcome]]:
    """Mutate one file of a kind, and yield (description, outcome) of each command.

    Args:
        name: of the kind.
        number: of the case.
        folder: empty.
    """
    kind, chance = KINDS[name], random.Random(f"{name} {number}")
    kind.write(folder)
    file = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    change = mutate(file, chance)
    for command in kind.commands:
        argv = [part.replace("@", str(folder)) for part in command.split()]
        with _environment({"HARNESS_PATH": str(folder)} if kind.own else {}):
            yield f"{name} {number}: {file.relative_to(folder)}: {change}: harness {command}", outcome(argv)


def outcome(argv: Sequence[str]) -> Outcome:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    code, fault = -1, ""
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings(), _limit():
            warnings.simplefilter("ignore")
            code = main(argv)
    except SystemExit as end:
        code = int(end.code or 0)
    except Exception as error:  # noqa: BLE001 - any is a fault
        fault = _described(error)
    printed = err.getvalue()
    if not fault and "Traceback" in printed:
        fault = printed[-2000:]
    if not fault and code == 2 and not any(line.startswith(("harness: ", "usage: ")) for line in printed.splitlines()):
        fault = f"rejected without a reason: {printed!r}"
    return Outcome(code, printed, fault)


def _described(error: Exception) -> str:
    kinds = " ".join(one.__name__ for one in type(error).__mro__)
    return f"{kinds}: {error}\n{''.join(traceback.format_tb(error.__traceback__))}"


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    def expired(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"no end after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    task_index._ours.cache_clear()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        task_index._ours.cache_clear()


def mutate(file: Path, chance: random.Random) -> str:
    """Change a file in place; return what was done."""
    by_structure = {".json": _json, ".jsonl": _lines, ".yaml": _yaml, ".parquet": _parquet, ".csv": _csv}.get(file.suffix)
    if by_structure and chance.random() < 0.8:
        with contextlib.suppress(ValueError, UnicodeError):
            return by_structure(file, chance)
    return _bytes(file, chance)


def _bytes(file: Path, chance: random.Random) -> str:
    content = file.read_bytes()
    place, name = chance.randrange(len(content) + 1), chance.choice("cut flipped empty latin nul mark twice nested".split())
    if name == "flipped":
        changed = bytearray(content)
        for _ in range(min(len(content), 5)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        content = bytes(changed)
    else:
        inserted = {"latin": b"\xff\xfe", "nul": b"\0", "nested": b"[" * 100_000}.get(name, b"")
        whole = {"cut": content[:place], "empty": b"", "mark": b"\xef\xbb\xbf" + content, "twice": content + content}
        content = whole.get(name, content[:place] + inserted + content[place:])
    file.write_bytes(content)
    return name


def _json(file: Path, chance: random.Random) -> str:
    values, change = _changed(json.loads(file.read_text(encoding="utf-8")), chance)
    file.write_text(json.dumps(values), encoding="utf-8")
    return change


def _lines(file: Path, chance: random.Random) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    number = chance.randrange(len(lines))
    values, change = _changed(json.loads(lines[number]), chance)
    lines[number] = json.dumps(values)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"line {number + 1}: {change}"


def _yaml(file: Path, chance: random.Random) -> str:
    text = file.read_text(encoding="utf-8")
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    values, change = _changed(yaml.safe_load(text), chance)
    file.write_text(head + yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return change


def _csv(file: Path, chance: random.Random) -> str:
    rows = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()]
    row, column = chance.randrange(len(rows)), chance.randrange(len(rows[0]))
    rows[row][column] = chance.choice(["", "x", "nan", "inf", "-1", "1e400", "1e300", "0", '"', "\0", ";", "True", "10" * 50, " "])
    file.write_text("".join(",".join(cells) + "\n" for cells in rows), encoding="utf-8")
    return f"row {row}, column {column}: {rows[row][column]!r}"


def _parquet(file: Path, chance: random.Random) -> str:
    frame = pd.read_parquet(file)
    column = chance.choice(list(frame.columns))
    contents: dict[str, Any] = {"text": "x", "null": None, "whole": 7, "nan": float("nan"), "inf": float("inf"), "truth": True}
    name = chance.choice(["gone", "no rows", "twice", "lists", *contents])
    if name == "gone":
        frame = frame.drop(columns=[column])
    elif name == "no rows":
        frame = frame.iloc[:0]
    elif name == "twice":
        frame = pd.concat([frame, frame])
    else:
        frame[column] = [[1.0]] * len(frame) if name == "lists" else contents[name]
    frame.to_parquet(file, index=False)
    return f"column {column}: {name}"


def _changed(values: Any, chance: random.Random) -> tuple[Any, str]:
    """Return plain values with one of them set, deleted or added, and where."""
    path = chance.choice(list(_places(values)))
    new = chance.choice(VALUES)
    if not path:
        return new, f"all of it {new!r}"
    holder = values
    for part in path[:-1]:
        holder = holder[part]
    how = chance.choice(["set", "set", "set", "deleted", "added"])
    if how == "deleted":
        del holder[path[-1]]
    elif how == "added" and isinstance(holder, list):
        holder.append(new)
    else:
        holder["extra" if how == "added" else path[-1]] = new
    return values, f"{'.'.join(map(str, path))} {how} ({new!r})"


def _places(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inside = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inside:
        yield from _places(value, (*path, key))


def _write_results(folder: Path) -> None:
    shutil.copytree(GOLDEN, folder, dirs_exist_ok=True)


def _write_logs(folder: Path) -> None:
    before = [lm_eval_logs.choice(i, right=i % 3 > 0) for i in range(6)]
    after = [lm_eval_logs.lowered(lm_eval_logs.choice(i, right=i % 2 > 0)) for i in range(6)]
    written = [lm_eval_logs.written(i, right=i % 2 > 0) for i in range(4)]
    filters = [{"name": "none", "filter": [{"function": "take_first"}]}]
    configs = {"a": lm_eval_logs.config(), "w": lm_eval_logs.config("exact_match", output_type="generate_until", filter_list=filters)}
    lm_eval_logs.sides(
        folder, {"a": before, "w": written}, {"a": after, "w": written}, configs=configs, groups={"two": ["a", "w"], "top": ["two"]}
    )


def _write_points(folder: Path) -> None:
    points = pd.DataFrame({"volume": [8, 16, 32, 64] * 3, "forgetting": [0.01 * i for i in range(12)], "stderr": 0.01})
    points = points.assign(params_total=[1000] * 4 + [2000] * 4 + [4000] * 4, run_id=["a"] * 4 + ["b"] * 4 + ["c"] * 4, model="m")
    points.to_csv(folder / "points.csv", index=False)
    points.to_parquet(folder / "points.parquet", index=False)


def _rows(suffix: str) -> Callable[[Path], None]:
    rows = [{"prompt": f"who is {i}", "completion": f"a cat {i}", "other": [i]} for i in range(9)]

    def write(folder: Path) -> None:
        file = folder / f"rows{suffix}"
        if suffix == ".json":
            file.write_text(json.dumps(rows))
        elif suffix == ".jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif suffix == ".parquet":
            pd.DataFrame(rows).to_parquet(file, index=False)
        else:
            pd.DataFrame(rows).drop(columns="other").to_csv(file, index=False)

    return write


ITEMS = [{"question": f"what {i} is", "answers": ["the", "of"], "gold": i % 2} for i in range(4)]
TASK: dict[str, Any] = {
    "task": "mine",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{answers}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
SUITE = {"tasks": ["mine"], "metric": "acc", "report": 3, "num_fewshot": 0, "chance": "choices"}
EXPERIMENT = {
    "defaults": [{"override /model": "nursery-smoke-a"}, "_self_"],
    "name": "mine",
    "probe_suites": ["mine"],
    "target_suites": [],
    "data": {"volumes": [8]},
    "hydra": {"sweeper": {"params": {"seed": "0,1"}, "arms": {"plain": {}, "low": {"training.learning_rate": 0.001}}}},
}
RATE = {"model": "nursery-smoke-a", "tuning": "full", "objective": "sft", "data": "d", "mitigation": "none", "learning_rate": 0.1}
RATE |= {"candidates": [0.1], "suite": "s", "metric": "acc", "score": 0.5, "volume": 8, "seeds": [0]}


def _write_task(folder: Path) -> None:
    (folder / "benchmarks" / "tasks").mkdir(parents=True)
    (folder / "benchmarks" / "suites").mkdir(parents=True)
    items = folder / "items.jsonl"
    items.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    task = TASK | {"dataset_kwargs": {"data_files": {"test": str(items)}}}
    (folder / "benchmarks" / "tasks" / "mine.yaml").write_text(yaml.safe_dump(task))
    (folder / "benchmarks" / "suites" / "mine.yaml").write_text("# Mine.\n" + yaml.safe_dump(SUITE))


def _write_conf(folder: Path) -> None:
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "tuning").mkdir(parents=True)
    experiment, tuning = yaml.safe_dump(EXPERIMENT, sort_keys=False), yaml.safe_dump({"class": "lora.Lora", "rank": 2, "modules": None})
    (folder / "conf" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n# Mine.\n{experiment}")
    (folder / "conf" / "tuning" / "mine.yaml").write_text(f"# Mine.\n{tuning}")
    (folder / "conf" / "learning_rates.yaml").write_text(yaml.safe_dump({"rates": [RATE]}))


A_RUN = "data.volumes=[8] results=@ name=a"

KINDS: Mapping[str, Kind] = {
    "results": Kind(_write_results, ["table @", "status @", "learning-rates @"]),
    "logs": Kind(_write_logs, ["compare @/before @/after --json"]),
    "logs of inspect_ai": Kind(inspect_logs.planted, ["compare @/before @/after --json"]),
    "points": Kind(_write_points, ["fit @/points.csv --law power", "predict @/points.parquet --law power --at volume=100 --json"]),
    **{
        f"rows in {suffix}": Kind(_rows(f".{suffix}"), [f"plan model=nursery-smoke-a data='@/rows.{suffix}' {A_RUN}"])
        for suffix in ("jsonl", "json", "csv", "parquet")
    },
    "tasks": Kind(_write_task, ["prompt mine model=nursery-smoke-a"], own=True),
    "configuration": Kind(_write_conf, ["plan experiment=mine results=@ probe_suites=[tinyworld]", "list tuning"], own=True),
}
"""By name: what the harness reads, except models."""


def _endless(names: Sequence[str]) -> int:
    """Try cases until one fails, and print it."""
    cases = ((number, name) for number in itertools.count() for name in names)
    for number, name in cases:
        with tempfile.TemporaryDirectory() as folder:
            for described, found in tried(name, number, Path(folder)):
                if found.fault:
                    sys.stderr.write(f"{described}\n{found.fault}\n")
                    return 1
        if number % 100 == 99 and name == names[-1]:
            sys.stderr.write(f"{(number + 1) * len(names)} cases\n")
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(_endless(sys.argv[1:] or list(KINDS)))
