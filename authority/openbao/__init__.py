"""What every use of OpenBao shares: the one client, logins, the layout, and the set-up.

Imports ``pki`` and ``support`` at most.
"""
