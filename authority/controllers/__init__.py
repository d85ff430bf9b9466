"""The loops of the authority: each reads the journal, asks the rules of ``authority.rotation``, and acts through ports.

May import every wing but ``app``, ``api`` and ``cli``.
"""
