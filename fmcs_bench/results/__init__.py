"""What a trial leaves, and how results are summarised: start with ``records``, ``metrics`` and ``statistics``."""
