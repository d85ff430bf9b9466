"""Ports for the servers of a test."""

from playground.layout import free_ports


def free_port() -> int:
    """A port on 127.0.0.1 on which no process listens at the moment."""
    return free_ports(1)[0]
