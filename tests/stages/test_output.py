"""What stages print where several share one terminal."""

import io

from rca.stages.__main__ import Tee


def test_each_line_on_a_shared_terminal_names_its_job() -> None:
    terminal, log = io.StringIO(), io.StringIO()
    tee = Tee(terminal, log, "train_cam.rca-0")
    print("epoch 1/5: 0.5", file=tee)
    print("two", "words", file=tee)
    print("a\nb", file=tee)
    print(file=tee)
    print("error: train_cam.rca-0: the loss is not finite", file=tee)  # names it itself
    assert terminal.getvalue() == (
        "train_cam.rca-0: epoch 1/5: 0.5\n"
        "train_cam.rca-0: two words\n"
        "train_cam.rca-0: a\n"
        "train_cam.rca-0: b\n"
        "\n"
        "error: train_cam.rca-0: the loss is not finite\n"
    )
    assert log.getvalue() == "epoch 1/5: 0.5\ntwo words\na\nb\n\nerror: train_cam.rca-0: the loss is not finite\n"


def test_alone_a_stage_prints_as_it_is() -> None:
    terminal, log = io.StringIO(), io.StringIO()
    tee = Tee(terminal, log)
    print("epoch 1/5\rhalf", end="", file=tee)
    assert terminal.getvalue() == log.getvalue() == "epoch 1/5\rhalf"
