"""The rules of rotation and withdrawal, all of them pure: values in, decisions out.

May import the value types of ``fleet``, ``journal``, ``issuer`` and ``publishers``, and the contract ``tidemark``.
"""
