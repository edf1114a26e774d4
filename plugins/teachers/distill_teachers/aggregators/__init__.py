"""Aggregators: how the distributions of several teachers become one."""
