"""The admission webhook that adds the agent to pods: decisions (pure), its server, its ``caBundle``.

Imports ``kubernetes``, ``web`` and lower.
"""
