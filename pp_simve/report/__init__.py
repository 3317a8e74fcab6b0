"""The page of a run, report.html, written from the files of its folder; what is in them is computed elsewhere."""

from pp_simve.report.embedding import Embedding, embed_test
from pp_simve.report.page import check_report, write_report

__all__ = ["Embedding", "check_report", "embed_test", "write_report"]
