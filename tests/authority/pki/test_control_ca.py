"""The control CA in the state directory."""

import time
from pathlib import Path

import pytest
from cryptography import x509

from authority.pki.control_ca import create_control_ca, read_control_ca
from authority.pki.keystore import KeystoreError

NOW = int(time.time())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    create_control_ca(tmp_path, "bus.example.com", NOW, None)
    return tmp_path


def test_control_ca_is_made_once_and_signs_no_ca(state: Path) -> None:
    before = read_control_ca(state, None).certificate
    assert create_control_ca(state, "bus.example.com", NOW + 5, None) is None
    assert read_control_ca(state, None).certificate == before
    assert before.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_missing_control_ca_names_init(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError, match=r"control/ca: expected the control CA, found none; run 'init' first"):
        read_control_ca(tmp_path, None)
