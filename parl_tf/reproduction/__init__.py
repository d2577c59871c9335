"""The paper's grid of experiments: a file that becomes jobs, and a scheduler for them."""
