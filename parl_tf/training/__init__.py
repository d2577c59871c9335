"""From a recipe to a trained ensemble in a run folder, and on from where it stopped."""
