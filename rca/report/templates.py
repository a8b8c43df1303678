"""Pages from the templates beside this module; each holds its style and scripts, and needs no server."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent


def render_page(template: str, scripts: Sequence[str], **data: object) -> str:
    """Render a page as text.

    Args:
        template: The file of the template.
        scripts: The files of its scripts, in order.
        data: What the template shows, besides `style` and `script`.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    style, *parts = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", *scripts))
    # Marked as safe, since they are our own files.
    return environment.get_template(template).render(style=Markup(style), script=Markup("\n".join(parts)), **data)
