"""The announcement: one bundle as one JetStream message, from the authority to every agent.

The stream holds this subject alone and belongs to the authority. A message's body is ``Bundle.to_json``; one header
names the format of the body, so that a later format is refused by name (docs/decisions/0001-contract-package.md).
"""

from tidemark.verify import MAX_BYTES

SUBJECT = "metadata.client.ca-cert"
"""The subject on which bundles are announced."""

STREAM = "METADATA_CA_CLIENT"
"""The JetStream stream that keeps the announcements."""

FORMAT_HEADER = "Tidemark-Format"
"""The header of a message that names the format of its body."""

FORMAT = "bundle/v1"
"""The header's value for a body that ``Bundle.from_json`` reads."""

MAX_MESSAGE_BYTES = 2 * MAX_BYTES
"""Bytes in a message's body, at most: twice the largest bundle, as JSON writes each line end as two characters."""
