"""``harness verify``: results on disk, derived anew from their items, page included."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.analysis import verify
from harness.core.errors import RecordError
from harness.records.locate import spelled
from harness.records.seals import damaged
from harness.records.store import Experiment
from harness.report import html, page


def verify_command(experiment: Experiment, show: Callable[[str], None]) -> int:
    """Show a line for each file that is altered, missing or in another place.

    The page is compared if the records have no errors.

    Returns:
        Exit code: 0 without such a file, else 1.
    """
    found = [str(error) for error in verify.errors(experiment)]
    found = found or [str(error) for error in page_errors(experiment)]
    for line in dict.fromkeys(found):
        show(line)
    if not found:
        counted = ", ".join(f"{number} {name}" for name, number in verify.counts(experiment).items())
        show(f"{experiment.name}: {counted}; every file is as it was written, every score and interval follows from its items")
    return 1 if found else 0


def page_errors(experiment: Experiment) -> Iterator[RecordError]:
    """Yield an error for each file of an experiment's report that its records do not give.

    The page is rendered anew and compared byte for byte. Nothing is compared without a report.
    """
    folder, fix = experiment.folder / "report", f"`harness report {spelled(experiment)}`, which renders it anew"
    if not any((folder / name).exists() for name in ("index.html", page.WRITTEN)):
        return
    with tempfile.TemporaryDirectory() as place:
        html.write(page.content(experiment), Path(place))
        for path in sorted(Path(place).iterdir()):
            written = folder / path.name
            if not written.is_file():
                yield damaged(written, "no such file", fix=fix)
            elif written.read_bytes() != path.read_bytes():
                got = "other bytes than the records give: edited, of earlier records, or drawn by other versions of libraries"
                yield damaged(written, got, fix=fix)
