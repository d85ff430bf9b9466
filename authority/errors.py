"""The base of the errors with which a port refuses to work; the command line catches that one class for all ports."""


class StateUnusable(Exception):
    """What the authority keeps, or the system that keeps it, cannot be used now; the exit status is 3.

    The message names the thing, what was expected, what was found and what to do.
    """
