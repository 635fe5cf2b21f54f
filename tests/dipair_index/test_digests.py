import hashlib

import pytest

from dipair_index.digests import TextsDigest, checksum, short_digest


def test_a_short_digest_is_that_of_its_pieces_joined() -> None:
    # SHA-256 of "abc", from FIPS 180-4
    assert short_digest(b"abc") == "ba7816bf8f01cfea"
    assert short_digest([b"a", b"", b"bc"]) == "ba7816bf8f01cfea"
    assert short_digest(piece for piece in (b"ab", b"c")) == "ba7816bf8f01cfea"
    assert short_digest(b"") == short_digest([]) == hashlib.sha256().hexdigest()[:16]


def test_a_checksum_changes_with_any_byte() -> None:
    assert checksum(b"") == checksum(memoryview(b"")) == "cae66941d9efbd404e4d88758ea67670"
    assert len({checksum(bytes([byte])) for byte in range(256)}) == 256


def test_a_digest_of_texts_depends_on_order_and_on_where_an_id_ends() -> None:
    def digest(*texts: tuple[str, str]) -> str:
        whole = TextsDigest()
        for text_id, text in texts:
            whole.update([text_id], [text])
        return whole.hexdigest()

    both = TextsDigest()
    both.update(["a", "b"], ["x", "y"])
    assert both.count == 2
    assert both.hexdigest() == digest(("a", "x"), ("b", "y"))
    assert len({digest(("a", "x"), ("b", "y")), digest(("b", "y"), ("a", "x"))}) == 2
    assert digest(("a", "bc")) != digest(("ab", "c"))
    with pytest.raises(ValueError, match="shorter"):
        both.update(["a", "b"], ["x"])
