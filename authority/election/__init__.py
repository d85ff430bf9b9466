"""The port that says which replica leads, with two implementations: files, and a Lease in Kubernetes.

Imports ``kubernetes`` and ``support``.
"""
