"""Checksums of files and digests of settings, against published and recomputed ones."""

import hashlib

from vae.report import provenance


def test_checksum_of_a_published_case(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    # The example in FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert provenance.checksum(tmp_path / "file") == expected


def test_the_settings_digest_does_not_depend_on_their_order():
    digest = provenance.settings_digest({"b": 1, "a": [1, 2]})
    assert digest == provenance.settings_digest({"a": [1, 2], "b": 1})
    assert digest == hashlib.sha256(b'{"a": [1, 2], "b": 1}').hexdigest()
    assert digest != provenance.settings_digest({"a": [2, 1], "b": 1})
