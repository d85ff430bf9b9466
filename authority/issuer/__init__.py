"""The port that issues CAs and leaves, with two implementations: embedded (files) and OpenBao.

Imports ``openbao``, ``pki`` and ``support``.
"""
