"""What walks or rewrites a functional Keras graph."""
