"""Synthetic images learned by matching what real images do to a network."""
