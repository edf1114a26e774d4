"""Which training sequence comes when: ``curriculum``, ``domain-reweighting``."""
