"""Result records as tables, figures and a page."""

from parl_tf.report.accuracy import accuracy_figure, accuracy_table
from parl_tf.report.formats import markdown_table
from parl_tf.report.layers import cka_figure
from parl_tf.report.writing import Report, write_report

__all__ = [
    "Report",
    "accuracy_figure",
    "accuracy_table",
    "cka_figure",
    "markdown_table",
    "write_report",
]
