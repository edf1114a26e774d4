"""Rationales: written by a teacher, judged, and made into training records."""
