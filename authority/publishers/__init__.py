"""The port through which bundles and leaves reach their targets, with a publisher for each kind of target.

Imports outside systems, ``pki``, ``support`` and the port ``issuer``; publishers do not know each other.
"""
