"""The model of a folder of lm-eval's output, which all its results files must state alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import RecordError, explain

NAMES = ("peft", "delta", "pretrained", "model", "path")
"""Arguments that name a model, the deciding one first."""

NO_MODEL = frozenset(
    """batch_size max_batch_size device device_map device_map_option parallelize max_memory_per_gpu max_cpu_memory offload_folder
    trust_remote_code use_fast_tokenizer token cache_dir tensor_parallel_size data_parallel_size gpu_memory_utilization swap_space
    max_num_seqs enforce_eager num_concurrent max_retries timeout eos_string verify_certificate tokenized_requests seed
    max_length max_model_len max_gen_toks truncation add_bos_token prefix_token_id logits_cache softmax_dtype mixed_precision_dtype
    enable_thinking think_end_token chat_template_args dtype revision""".split()
)
"""Arguments that do not say which model it is: those of the machine, those of how texts are read
(tasks may need their own), and two that are compared by themselves."""

Results = Mapping[tuple[Path, str], Mapping[str, Any]]
"""(folder, timestamp) → contents of a results file."""


def name_of(source: str, every: Results, files: Sequence[Path]) -> str:
    """Return the name of the model of a folder.

    Args:
        source: the folder, as the user typed it.
        every: its results files.
        files: its samples.

    Raises:
        RecordError: for samples of two models, or of two revisions, dtypes or versions of one.
    """
    names = sorted({name for values in every.values() if (name := _name(values))})
    places = sorted({str(file.parent) for file in files})
    if len(names) > 1 or (len(places) > 1 and not names):
        got = f"samples of {len(names or places)} models ({', '.join(names or places)})"
        raise RecordError(explain(source, got=got, allowed="samples of one model", fix=f"name one of its folders: {', '.join(places)}"))
    _require_one(source, every)
    return names[0] if names else Path(places[0]).name


def arguments(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return lm-eval's ``model_args``, which is a mapping or a text such as ``a=1,b=2``."""
    found = config.get("model_args")
    if isinstance(found, Mapping):
        return found
    return dict(part.split("=", 1) for part in str(found or "").split(",") if "=" in part)


def _name(results: Mapping[str, Any]) -> str:
    named, found = results.get("model_name"), arguments(results["config"])
    return str(named or next((found[key] for key in NAMES if found.get(key)), ""))


def _require_one(source: str, every: Results) -> None:
    """Raise RecordError if two results files state different models."""
    kinds: list[tuple[Path, dict[str, str], dict[str, str]]] = []
    for (folder, stamp), values in every.items():
        facts, given = _facts(values), _given(values["config"])
        if any((facts, given) == (known, others) for _, known, others in kinds):
            continue
        file = next(iter(sorted(folder.glob(f"*{stamp}.json"))), folder)
        for first, known, others in kinds:
            for what, (one, other) in (_different(known, facts) | _different_arguments(others, given)).items():
                got = f"results of two models: {what} {one} in {first}, {other} in {file}"
                fix = "move one of them, with its samples, to a folder of its own"
                raise RecordError(explain(source, got=got, allowed="results of one model and revision", fix=fix))
        kinds.append((file, facts, given))


def _facts(results: Mapping[str, Any]) -> dict[str, str]:
    """Return what a results file states about its model, by name."""
    config = results["config"]
    asked = arguments(config)
    stated = {
        "revision": config.get("model_revision") or asked.get("revision") or ("main" if config else None),
        "dtype": config.get("model_dtype") or asked.get("dtype"),
        **{name: config.get(name) for name in ("model_sha", "peft_sha", "delta_sha")},
    }
    return {name: str(value) for name, value in stated.items() if value}


def _given(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the arguments that say which model it is."""
    return {str(key): str(value) for key, value in arguments(config).items() if key not in NO_MODEL and value not in (None, "", "None")}


def _different(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the values that both state, and that differ."""
    return {name: (one[name], other[name]) for name in one if name in other and one[name] != other[name]}


def _different_arguments(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the arguments that differ; unknown where a file has none at all."""
    names = sorted({*one, *other}) if one and other else []
    both = {name: (one.get(name, "not given"), other.get(name, "not given")) for name in names}
    return {f"model_args {name}": values for name, values in both.items() if values[0] != values[1]}
