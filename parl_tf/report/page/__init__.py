"""The whole report: its page, where its numbers come from, and its files."""
