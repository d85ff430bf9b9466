"""Status, metrics, receipts and HTTP port of the agent. May import ``selection`` and ``clients``."""
