"""Figures as functions of records."""
