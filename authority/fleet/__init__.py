"""The agents that are expected, their receipts, and when their proofs arrived.

Imports the value types of ``journal``, and ``kubernetes`` to watch pods.
"""
