"""From models, attacks and images to result records."""
