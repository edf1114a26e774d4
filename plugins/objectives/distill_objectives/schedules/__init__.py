"""Schedules of a weight, a temperature or a number of entries, one per file."""
