"""Runs: from a run file to a student, stage by stage. Planning and validation import neither torch nor transformers."""
