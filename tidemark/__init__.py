"""Tidemark's contract: formats, verification and clock, as the authority, the agents and applications agree on them.

This package imports nothing and may import neither program; each module is imported by name. All modules but
``tidemark.nats`` are pure: bytes, state and ``now`` (whole Unix seconds, UTC) go in, values come out.
"""
