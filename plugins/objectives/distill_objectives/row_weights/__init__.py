"""Weights of rows: which rows of an objective count, and how much."""
