"""Records of evaluations, and the files that hold them."""
