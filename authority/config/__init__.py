"""The configuration: one module for each larger TOML table, and the warnings of ``check-config``.

Imports ``rotation`` and lower, for types and limits.
"""
