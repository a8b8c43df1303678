import hashlib

from rca.evaluation.protocol import describe_protocol, fingerprint_list


def test_a_list_is_known_by_its_images_in_any_order() -> None:
    assert fingerprint_list(["b", "a"]) == fingerprint_list(("a", "b")) == hashlib.sha256(b"a\nb\n").hexdigest()
    assert len({fingerprint_list(ids) for ids in (["a"], ["a", "b"], ["ab"], [])}) == 4


def test_a_run_without_masks_of_its_own_is_told_nothing_of_thresholds() -> None:
    protocol = {
        "lists": {"val": {"images": 9, "sha256": "0123456789"}},
        "tags": {"segmentation": "none"},
        "tag_threshold": None,
        "predicted_ignore": "exclude",
        "best_on": None,
        "boundary_distance": 0.02,
        "supervision": "masks",
        "initialisation": {},
    }
    text = " ".join(describe_protocol(protocol))
    assert "Trained on true masks (full supervision)." in text
    assert "best" not in text
    assert "Initial weights" not in text
