from __future__ import annotations

import datasets

from harness.data.tinyworld.questions import items as world_items


def items(part: str, **_: object) -> dict[str, datasets.Dataset]:
    return {"test": datasets.Dataset.from_list([dict(item) for item in world_items(part)])}
