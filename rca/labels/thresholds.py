"""The thresholds that masks are made with."""

CHOICES = ("best", "fixed")
"""The best threshold on a split with masks, and one that needs no masks."""


def name_folder(choice: str, tags: str) -> str:
    """The folder of refined masks within their shard's folder.

    Args:
        choice: One of `CHOICES`.
        tags: The kind of tags of the images: "given" or "predicted".
    """
    return choice if tags == "given" else f"{choice}_{tags}_tags"
