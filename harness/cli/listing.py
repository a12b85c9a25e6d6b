"""``harness list``: every choice of a configuration, with a sentence about each."""

from __future__ import annotations

import shutil
import sys
import textwrap

from harness.config import paths
from harness.config.yaml_files import first_sentence
from harness.core import extras
from harness.core.display import OUTPUT, quiet_libraries
from harness.core.errors import ConfigError, did_you_mean, explain


def list_command(asked: str | None) -> int:
    """Print the members of a group, or of all groups, each with its first sentence.

    Args:
        asked: such as model or suites, or ``lm_eval`` for its tasks; None is every group.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: for an unknown group.
        InstallError: for ``lm_eval`` where it is not installed.
    """
    groups = ["model", "tuning", "objective", "mitigation", "data", "anchor", "evaluation", "experiment", "launcher", "suites"]
    if asked == "lm_eval":
        return _list_lm_eval()
    if asked and asked not in groups:
        near = did_you_mean(asked, [*groups, "lm_eval"]) or "`harness list` for every choice"
        raise ConfigError(explain("list", got=repr(asked), allowed=", ".join([*groups, "lm_eval"]), fix=near))
    for group in [asked] if asked else groups:
        folder = {"suites": "benchmarks/suites", "anchor": "conf/data"}.get(group, f"conf/{group}")
        sys.stdout.write(f"{group}\n" if not asked else "")
        for name, path in paths.members(folder).items():
            sys.stdout.write(_wrapped(f"  {name:<24} ", first_sentence(path)))
        if group == "suites":
            more = "Any task, group or tag of lm-eval is a suite under its own name, too: `harness list lm_eval`."
            OUTPUT.message(_wrapped("  ", more).rstrip("\n"))
    return 0


def _list_lm_eval() -> int:
    """List lm-eval's tasks, groups and tags as suites; a name that ours has needs a prefix."""
    extras.require("list lm_eval", "measure")
    quiet_libraries()
    from harness.evaluation import task_index

    ours = paths.members("benchmarks/suites")
    for name, kind in task_index.names(forced=True).items():
        spelled = f"{task_index.FORCED}{name}" if name in ours else name
        sys.stdout.write(f"  {spelled:<24} {kind}{f'; {name} is ours' if name in ours else ''}\n")
    return 0


def _wrapped(head: str, text: str) -> str:
    """Return a line, on a terminal wrapped to its width."""
    if not sys.stdout.isatty():
        return f"{head}{text}\n"
    width = max(shutil.get_terminal_size().columns, len(head) + 40)
    return textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False) + "\n"
