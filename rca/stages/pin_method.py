"""Pin the code of a run's host and method.

DVC cannot depend on a file whose name stands inside a parameter. This stage depends on all hosts and methods, and
writes the checksums of those modules alone that the run's own ones import: so an edit to one method retrains its runs
and no others.
"""

from pathlib import Path

from rca.artifacts import hash_file, write_json
from rca.imports import find_closure
from rca.models.cam_network import load_host, load_method
from rca.stages.context import Context

PACKAGE = Path(__file__).parent.parent


def run(context: Context) -> None:
    """Write the host's and the method's name, and the checksums of their code under hosts/ and methods/."""
    host, method = (context.read(f"run.{context.run}.{key}") for key in ("host", "method"))
    load_host(host)
    load_method(method)
    closure = find_closure([PACKAGE / "hosts" / f"{host}.py", PACKAGE / "methods" / f"{method}.py"])
    own = [path for path in closure if path.parent.name in ("hosts", "methods")]
    checksums = {path.relative_to(PACKAGE).as_posix(): hash_file(path) for path in own}
    write_json(context.layout.method(str(context.run)), {"host": host, "method": method, "code": checksums})
