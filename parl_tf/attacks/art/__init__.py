"""Attacks of the Adversarial Robustness Toolbox, an optional extra."""
