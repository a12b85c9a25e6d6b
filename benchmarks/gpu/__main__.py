"""`python -m benchmarks.gpu --out DIR`: check on a GPU everything that was built on CPUs.

Sections run one after another, each in a process of its own with a deadline; at most 8 minutes.
Each writes DIR/SECTION.json after every check, so one that dies leaves what it found. Models have
random weights and are built on the device; nothing is downloaded. Without a GPU, the checks that
need none run on the CPU, and the others are recorded as skipped.

Exit code: 0 if no section failed, 1 otherwise, 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import table
from benchmarks.gpu.report import NO_CUDA, PASSED
from benchmarks.gpu.sections import SECTIONS, carry_out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections that are asked for, and print their table."""
    arguments = _arguments(argv)
    if arguments.table is not None:
        sys.stdout.write(table.markdown(arguments.table))
        return 0
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    # A process that is forked cannot use a GPU that was looked for in the one it comes from.
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", PYTORCH_NVML_BASED_CUDA_CHECK="1")
    if arguments.tiny:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    statuses = []
    for name in arguments.only or SECTIONS:
        statuses.append(carry_out(name, SECTIONS[name], out.resolve(), tiny=arguments.tiny))
        sys.stderr.write(f"{name}: {statuses[-1]}\n")
    sys.stdout.write(table.markdown(out))
    return int(any(status not in {PASSED, NO_CUDA} for status in statuses))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=str(__doc__).splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="DIR", help="folder for the results, a JSON and a log of each section")
    what.add_argument("--table", type=Path, metavar="DIR", help="print the Markdown table of the results in DIR")
    parser.add_argument("--tiny", action="store_true", help="on the CPU, whatever else there is, in seconds")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
