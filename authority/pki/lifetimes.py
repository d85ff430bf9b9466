"""How long certificates that the authority keeps itself are valid, in seconds."""

ROOT_SECONDS = 20 * 365 * 86400
"""How long a root is valid."""

BACKDATED_SECONDS = 86400
"""How long before their making roots, the control CA and its certificates become valid, for clocks that are behind."""

CONTROL_CA_SECONDS = 20 * 365 * 86400
"""How long the control CA is valid."""

SERVER_SECONDS = 30 * 86400
"""How long a certificate of the API is valid; it is renewed at half of that."""
