"""How long roots, the control CA and server certificates are valid, in seconds."""

ROOT_SECONDS = 20 * 365 * 86400
"""How long a root is valid."""

BACKDATED_SECONDS = 86400
"""How long before its making a root becomes valid, for clocks that are behind."""

CA_SECONDS = 20 * 365 * 86400
"""How long the control CA is valid."""

SERVER_SECONDS = 30 * 86400
"""How long a certificate of the API is valid; it is renewed at half of that."""
