"""A total-variation objective for distill-core."""
