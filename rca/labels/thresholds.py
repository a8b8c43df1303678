"""The thresholds that masks are made with."""

# The best on a split with masks, and one that looks at no mask.
CHOICES = ("best", "fixed")


def name_folder(choice: str, tags: str) -> str:
    """Where refined masks lie in their shard's folder.

    Args:
        choice: One of `CHOICES`.
        tags: Of the image: "given" or "predicted".
    """
    return choice if tags == "given" else f"{choice}_{tags}_tags"
