"""Measures of members' diversity: their gradients, representations and mutual transfer."""
