from rca.settings import Settings


class RenderReportSettings(Settings):
    title: str | None = None
    picture_width: int = 240
def run(context): pass
