"""The run file: read, built into its models, checked, all problems at once. No torch, nothing of the rest of a run."""
