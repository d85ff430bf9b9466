"""The transport below a connection, and how another transport takes its place without losing a message.

Internal: applications use ``tidemark.nats``. From there the modules here import the installed set, subscriptions and
errors only.
"""
