"""Tidemark's contract: what the authority, the agents and the applications agree on.

Importing this package pulls in nothing; each module is imported by name. All of them but ``tidemark.nats`` are pure:
bytes, state and ``now`` (whole Unix seconds, UTC) go in, values come out.
"""
