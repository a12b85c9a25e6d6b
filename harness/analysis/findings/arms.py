"""Names of arms in place of the labels that they decide, for display only.

Cells, pairs, controls and searched rates use the group members' own labels, so that renaming an arm
moves no run to another cell, and no number.
"""

from __future__ import annotations

import pandas as pd

NAMED = ["mitigation", "tuning", "objective", "data", "anchor", "variant"]
"""Labels whose value an arm's name can replace: the first one that the arms decide."""


def named_by_arm(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table or findings with arms' names as the label that they decide.

    Arms decide a label that differs between them and is constant within each. Other rows and labels
    stay as they are.
    """
    arms = frame[frame["arm"].notna()] if "arm" in frame else frame.head(0)
    for name in NAMED:
        if name in arms and arms[name].nunique(dropna=False) > 1 and (arms.groupby("arm")[name].nunique(dropna=False) == 1).all():
            return frame.assign(**{name: frame["arm"].where(frame["arm"].notna(), frame[name])})
    return frame
