"""Filters: what judges records, one a file."""
