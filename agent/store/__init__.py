"""The output directory and the state file in it. May import ``selection``, ``clocks`` and ``log``."""
