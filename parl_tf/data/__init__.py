"""Images and labels: named data sets, the user's own data, training batches and checks."""
