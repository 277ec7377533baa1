"""A self-contained page about a dataset or a recording table."""

from dawnchorus.data_prep.report.page import write_report

__all__ = ["write_report"]
