"""Reading the agent's output directory: one whole set, or a refusal that names the file and what is wrong with it."""

import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.harness.nats.cluster import ClusterCa, InstalledOutput
from tidemark.nats import SetUnreadable
from tidemark.nats.installed_set import read_installed


def test_digests_are_of_the_files_and_the_context_checks_everything(output: InstalledOutput) -> None:
    installed = read_installed(output.path)
    assert (installed.ca_sha256, installed.leaf_sha256) == output.digests()
    assert installed.context.verify_mode is ssl.CERT_REQUIRED
    assert installed.context.check_hostname
    assert installed.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert installed.context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert len(installed.context.get_ca_certs(binary_form=True)) == 2


def test_plain_directory_is_read(tmp_path: Path, first: ClusterCa) -> None:
    certificate, key = first.leaf()
    for name, content in (("ca.crt", first.pem), ("tls.crt", certificate), ("tls.key", key)):
        (tmp_path / name).write_bytes(content)
    assert read_installed(tmp_path).leaf_sha256


def test_the_leaf_is_the_first_certificate_of_its_file(
    output: InstalledOutput, first: ClusterCa, second: ClusterCa
) -> None:
    certificate, key = first.leaf()
    output.install(second.pem, certificate + first.pem, key)
    assert read_installed(output.path).leaf_sha256 == output.digests()[1]


def test_the_same_set_is_equal_and_another_chain_is_not(
    output: InstalledOutput, first: ClusterCa, second: ClusterCa
) -> None:
    certificate, key = first.leaf()
    output.install(second.pem, certificate, key)
    one = read_installed(output.path)
    assert read_installed(output.path) == one
    output.install(second.pem, certificate + first.pem, key)
    assert read_installed(output.path) != one


def test_a_reader_never_sees_two_sets_at_once(output: InstalledOutput, first: ClusterCa, second: ClusterCa) -> None:
    sets = [(first.pem, *first.leaf()), (second.pem, *second.leaf())]
    expected = set()
    for one in sets:
        output.install(*one)
        expected.add(output.digests())
    stop = threading.Event()

    def switch() -> None:
        turn = 0
        while not stop.is_set():
            output.install(*sets[turn % 2])
            turn += 1

    switching = threading.Thread(target=switch)
    switching.start()
    try:
        seen, refused = set(), set()
        for _ in range(200):
            try:
                installed = read_installed(output.path)
            except SetUnreadable as error:
                refused.add(str(error))
            else:
                seen.add((installed.ca_sha256, installed.leaf_sha256))
    finally:
        stop.set()
        switching.join()
    assert seen == expected
    assert all("replaced" in one for one in refused)  # switched without a pause this may happen, a mixture never


@pytest.mark.parametrize("name", ["ca.crt", "tls.crt", "tls.key"])
def test_a_missing_file_is_named(output: InstalledOutput, name: str) -> None:
    (output.path / "..data" / name).unlink()
    with pytest.raises(SetUnreadable, match=rf"{name}.*no such file"):
        read_installed(output.path)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetUnreadable, match=r"nowhere/ca\.crt.*no such file"):
        read_installed(tmp_path / "nowhere")


def test_data_directory_in_place_of_the_link_is_refused(output: InstalledOutput) -> None:
    (output.path / "..data").unlink()
    (output.path / "..data").mkdir()
    with pytest.raises(SetUnreadable, match=r"\.\.data: expected a symbolic link"):
        read_installed(output.path)


def test_a_bundle_cut_in_its_second_certificate_is_refused(
    output: InstalledOutput, first: ClusterCa, second: ClusterCa
) -> None:
    output.install(first.pem + second.pem[:300], *first.leaf())
    with pytest.raises(SetUnreadable, match=r"ca\.crt.*truncated"):
        read_installed(output.path)


def test_key_of_another_leaf_is_refused_and_hidden(output: InstalledOutput, first: ClusterCa) -> None:
    certificate, _ = first.leaf()
    _, key = first.leaf()
    output.install(first.pem, certificate, key)
    with pytest.raises(SetUnreadable, match=r"tls\.key: expected the key of tls\.crt") as refused:
        read_installed(output.path)
    assert key.decode().splitlines()[1] not in str(refused.value)


def test_an_encrypted_key_is_refused_instead_of_asking_a_terminal(output: InstalledOutput, first: ClusterCa) -> None:
    certificate, key = first.leaf()
    encrypted = serialization.load_pem_private_key(key, password=None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    output.install(first.pem, certificate, encrypted)
    with pytest.raises(SetUnreadable, match=r"tls\.key: expected an unencrypted"):
        read_installed(output.path)


def test_a_file_too_large_is_refused(output: InstalledOutput, first: ClusterCa) -> None:
    output.install(first.pem + b"#" * 1024 * 1024, *first.leaf())
    with pytest.raises(SetUnreadable, match=r"ca\.crt: expected at most"):
        read_installed(output.path)


def test_reading_leaves_no_copy_of_the_key(output: InstalledOutput) -> None:
    before = sorted(output.path.rglob("*"))
    read_installed(output.path)
    assert sorted(output.path.rglob("*")) == before
    assert stat.S_ISLNK((output.path / "tls.key").lstat().st_mode)


def test_repr_hides_the_key(output: InstalledOutput) -> None:
    assert "context" not in repr(read_installed(output.path))
