"""Listening sockets, and the limits of the connections that come in there. Imports ``support`` at most."""
