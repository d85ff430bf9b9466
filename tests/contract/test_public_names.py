"""The wheel's public names do not change unnoticed."""

from tests.harness.contract import public_names
from tidemark import fields, strict_json


def test_public_names_are_those_of_the_kept_list() -> None:
    assert public_names.public_names() == public_names.FILE.read_text().splitlines()


def test_fields_module_of_the_first_release_is_strict_json() -> None:
    assert all(getattr(fields, name) is getattr(strict_json, name) for name in fields.__all__)
