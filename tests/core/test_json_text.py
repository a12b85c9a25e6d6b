"""JSON is read to a limit of nesting, wherever it comes from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core import json_text
from harness.core.errors import DamagedError, HarnessError
from harness.data.reading import read
from harness.external import logged, results_files
from harness.models.weights import _entries, check_safetensors, weight_files
from harness.records import record_files, summary_files
from harness.records.store import Experiment

DEEP = [101, 5_000, 100_000]


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("levels", DEEP)
def test_deep_json_is_a_value_error(levels: int) -> None:
    """Lists and objects, as text and as bytes; a hundred levels are read."""
    for text in (nested(levels), '{"a": ' * levels + "1" + "}" * levels, f'[{{"a": {nested(levels - 2)}}}]'):
        for given in (text, text.encode()):
            with pytest.raises(ValueError, match="more than 100 nested levels"):
                json_text.loads(given)
    assert json_text.loads(nested(100)) == json.loads(nested(100))


def test_many_values_side_by_side_are_not_deep() -> None:
    """Brackets inside texts do not count, nor do closed ones."""
    values = {"rows": [[i, {"a": [i]}] for i in range(1000)], "text": "[" * 1000}
    assert json_text.loads(json.dumps(values)) == values
    assert [json_text.loads(text) for text in ("3", '"a"', "null", "[]")] == [3, "a", None, []]


@pytest.mark.parametrize("levels", DEEP)
def test_readers_of_json_name_the_file(tmp_path: Path, levels: int) -> None:
    """Rows, records, lm-eval's logs and results, weights and their index: one line each."""
    text = f'{{"a": {nested(levels)}}}'
    header = text.encode()
    files: dict[str, tuple[str | bytes, Callable[[Path], object]]] = {
        "rows.jsonl": (text, lambda path: list(read(path, "line"))),
        "rows.json": (f"[{text}]", lambda path: list(read(path, "line"))),
        "record.json": (text, record_files.load),
        "samples_a_2025-01-01T00-00-00.jsonl": (text, lambda path: logged.rows(path, "a")),
        "results_2025-01-01T00-00-00.json": (text, lambda path: list(results_files.read(path.parent))),
        "model.safetensors": (len(header).to_bytes(8, "little") + header, check_safetensors),
        "model.safetensors.index.json": (text, lambda path: weight_files(path.parent)),
    }
    for name, (content, reader) in files.items():
        path = tmp_path / name.partition(".")[0] / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(HarnessError, match="more than 100 nested levels") as error:
            reader(path)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def test_caches_and_records_that_nest_too_deeply_are_damaged(tmp_path: Path) -> None:
    """The cache of hashes is made anew; a run's summary, and a record, name the file."""
    for name in ("hashes.json", "summary.json"):
        (tmp_path / name).write_text(f'{{"a": {nested(5_000)}}}')
    assert _entries(tmp_path / "hashes.json") == {}
    for opened in (summary_files.read, lambda folder: Experiment(folder).glance("summary.json")):
        with pytest.raises(DamagedError, match=r"summary\.json: got a file that cannot be read \(more than 100"):
            opened(tmp_path)
