"""The announcement's names on the wire: authorities and agents of different versions must meet on them."""

from tidemark import announcement
from tidemark.bundle import Bundle
from tidemark.verify import MAX_BYTES


def test_announcement_names_are_those_of_the_first_release() -> None:
    assert announcement.SUBJECT == "metadata.client.ca-cert"
    assert announcement.STREAM == "METADATA_CA_CLIENT"
    assert (announcement.FORMAT_HEADER, announcement.FORMAT) == ("Tidemark-Format", "bundle/v1")
    assert announcement.MAX_MESSAGE_BYTES == 1_048_576


def test_largest_bundle_of_line_ends_fits_into_one_message() -> None:
    names_and_quotes = len(Bundle(b"", b"").to_json())
    most = Bundle(b"\n" * (MAX_BYTES - names_and_quotes), b"")
    assert len(most.to_json()) <= announcement.MAX_MESSAGE_BYTES
