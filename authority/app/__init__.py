"""The composition root: opens the configured parts and runs them; the only wing that names implementations.

Imports every wing but ``cli``.
"""
