"""The paper's grid of experiments: a file becomes jobs, and jobs are run."""
