"""Generated rows: `harness show-data`."""

from __future__ import annotations

import re

from tests.smoke.conftest import Cli

RUN = ("model=nursery-smoke-a", "data=tinyworld-skill", "data.volumes=[8]", "mitigation=paraphrase", "mitigation.max_new_tokens=3")


def test_rows_are_written_once_and_shown(cli: Cli) -> None:
    """--write generates the missing rows; without it the same rows are read."""
    text = cli("show-data", *RUN, "seed=17", "--rows", "2", "--write").stdout
    assert re.search(r"^\d of 8 rows accepted \(\d+%\): ", text, flags=re.MULTILINE)
    assert re.search(r"^target nats: \d+\.\d+ per supervised token", text, flags=re.MULTILINE)
    assert re.findall(r"^row (\d) of 8 ", text, flags=re.MULTILINE) == ["1", "2"]
    again = cli("show-data", *RUN, "seed=17", "--rows", "2").stdout
    assert again.splitlines()[3:] == text.splitlines()[3:]
