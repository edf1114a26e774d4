"""Schedules of a weight or a temperature: ``constant``, ``linear``, ``cosine``."""
