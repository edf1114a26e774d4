"""Row weights: how much each row counts in one objective."""
