"""Sequences written while training: the on-policy rollout and what it is made of."""
