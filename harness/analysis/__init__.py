"""Records to a tidy table, findings and fitted laws; no torch."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.analysis.fits.fitting import Fit as Fit
    from harness.analysis.fits.fitting import Prediction as Prediction
    from harness.analysis.fits.laws import Law as Law
    from harness.analysis.statistics.stats import Interval as Interval
    from harness.analysis.table.changes import Changes as Changes

__getattr__ = exports(__name__)
