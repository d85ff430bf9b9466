"""A whole Tidemark on one machine: a real NATS cluster, the authority, agents and loaded applications."""
