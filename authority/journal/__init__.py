"""The journal: record types, their text form, the replayed history, the store, and two backends (directory, OpenBao).

May import ``authority.openbao``, ``authority.support``, ``authority.errors`` and the contract ``tidemark``.
"""
