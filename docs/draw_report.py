"""Draw a report as docs/results.md shows it: `python docs/draw_report.py runs/shapes/report/index.html`.

At 1280 and at 390 pixels, light and dark, in Chromium. It fails if the page complains.
"""

import io
import shutil
import sys
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).parent
SIZES = {"wide": (1280, 1250), "phone": (390, 2000)}
COLOURS = 128


def draw(browser: Browser, report: Path, size: str, scheme: Literal["light", "dark"]) -> None:
    """Write the top of the page as docs/report_<size>_<scheme>.png."""
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.resolve().as_uri())
    page.locator(".plot svg").first.wait_for()  # drawn once it is in view
    page.wait_for_load_state("networkidle")
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    picture.quantize(COLOURS).save(HERE / f"report_{size}_{scheme}.png", optimize=True)
    page.close()
    if complaints:
        raise SystemExit("\n".join(complaints))


def main(report: Path) -> None:
    """Draw a report at all sizes, light and dark."""
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for size in SIZES:
            draw(browser, report, size, "light")
            draw(browser, report, size, "dark")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
