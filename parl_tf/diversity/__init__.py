"""How differently members see: gradients, representations, transfer between them."""
