"""Result records as tables, figures and a page."""

from parl_tf.report.figures.accuracy import accuracy_figure
from parl_tf.report.figures.layers import cka_figure
from parl_tf.report.page.writing import Report, write_report
from parl_tf.report.tables.accuracy import accuracy_table
from parl_tf.report.tables.formats import markdown_table

__all__ = [
    "Report",
    "accuracy_figure",
    "accuracy_table",
    "cka_figure",
    "markdown_table",
    "write_report",
]
