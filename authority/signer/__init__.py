"""The port that signs statements, with two implementations: embedded (files) and OpenBao's transit engine.

Imports ``openbao``, ``pki`` and ``support``.
"""
