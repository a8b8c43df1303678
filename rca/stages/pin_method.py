"""Pin the code of a run's host and method, and the saliency maps that its training goes by, if it does.

DVC cannot depend on a file whose name stands inside a parameter. This stage depends on all hosts and methods, and
writes the checksums of those modules alone that the run's own ones import: so an edit to one method retrains its runs
and no others. Likewise an edit to a saliency map retrains the runs alone whose host goes by such maps.
"""

from pathlib import Path

from rca.classifier.network import load_host, load_method
from rca.core.files import hash_file, write_json
from rca.core.imports import find_closure
from rca.data.partition import pin_saliency
from rca.stages.context import Context

PACKAGE = Path(__file__).parent.parent


def run(context: Context) -> None:
    """Write the host's and the method's name, the checksums of their code under hosts/ and methods/, and of maps."""
    host, method = (context.read(f"run.{context.run}.{key}") for key in ("host", "method"))
    load_method(method)
    salient = load_host(host).needs_saliency
    closure = find_closure([PACKAGE / "hosts" / f"{host}.py", PACKAGE / "methods" / f"{method}.py"])
    own = [path for path in closure if path.relative_to(PACKAGE).parts[0] in ("hosts", "methods")]
    checksums = {path.relative_to(PACKAGE).as_posix(): hash_file(path) for path in own}
    pinned = {"host": host, "method": method, "code": checksums}
    if salient:
        pinned["saliency"] = pin_saliency(context.layout.manifest, context.read("train_cam.split"))
    write_json(context.layout.method(str(context.run)), pinned)
