"""Walking and rewriting of functional Keras graphs."""
