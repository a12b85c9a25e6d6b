"""Findings to pages, figures and tables, without torch."""

from typing import TYPE_CHECKING

from harness.core.lazy import exports

if TYPE_CHECKING:
    from harness.report.content import Content as Content
    from harness.report.content import Section as Section
    from harness.report.evidence import Evidence as Evidence

__getattr__ = exports(__name__)
