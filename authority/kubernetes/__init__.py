"""What every use of Kubernetes shares: the one client, credentials, errors, the informer, Secrets.

Imports ``pki`` and ``support`` at most.
"""
