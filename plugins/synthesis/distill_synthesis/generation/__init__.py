"""Data written by a teacher: instructions made, grown, guessed and answered, with provenance, a budget and a funnel."""
