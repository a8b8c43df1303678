import hashlib

from rca.protocol import fingerprint_list


def test_a_list_is_known_by_its_images_in_any_order() -> None:
    assert fingerprint_list(["b", "a"]) == fingerprint_list(("a", "b")) == hashlib.sha256(b"a\nb\n").hexdigest()
    assert len({fingerprint_list(ids) for ids in (["a"], ["a", "b"], ["ab"], [])}) == 4
