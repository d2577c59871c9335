"""Images: data sets by name, the user's own examples, training batches, checks."""
