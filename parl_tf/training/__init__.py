"""Training by a recipe into a run folder, and continuing interrupted runs."""
