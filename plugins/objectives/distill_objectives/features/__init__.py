"""Feature-level objectives: what the layers of a live teacher compute, beside what it predicts."""
