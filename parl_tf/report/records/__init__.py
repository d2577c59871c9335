"""Records for a report: collected, checked, selected and labelled."""
