"""The whole report: its page, the provenance of its numbers, and its files."""
