"""`report.html`: one self-contained page about one or several runs, from their files alone."""

from dawnchorus.trainer.report.page import write_report

__all__ = ["write_report"]
