"""What evaluations leave: records, and the files that hold them."""
