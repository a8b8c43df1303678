"""How a network is trained: optimiser, schedule, batch, precision and processes."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from rca.core.precision import Precision
from rca.core.settings import Settings, Unpinned


class OptimisationSettings(Settings):
    """How a network is trained.

    Attributes:
        optimiser: SGD with Nesterov momentum 0.9, or AdamW.
        epochs: Passes over the images.
        batch_size: Images per step of the loader, over all processes.
        accumulate: Steps of the loader per step of the optimiser.
        learning_rate: Initial learning rate of the new layers.
        backbone_learning_rate: Initial learning rate of the backbone.
        weight_decay: L2 penalty (AdamW: decoupled).
        poly_power: The learning rates fall as (1 - step / steps) ** poly_power.
        freeze_batchnorm: Keep the statistics and scales of the backbone's BatchNorm at their initial values.
        precision: "float32", or "bfloat16" for the parts that `rca.core.precision` names, on a GPU only.
        workers: Processes that load images, per training process; the result does not depend on it.
        processes: Processes that train together, each on its own GPU, or all on the CPU if there is no GPU. They share
            a batch; whole images (no crop) are padded to the largest image of a process's own part.
    """

    optimiser: Literal["sgd", "adamw"] = "adamw"
    epochs: int = Field(ge=1, le=10_000)
    batch_size: int = Field(ge=1, le=1 << 16)
    accumulate: int = Field(default=1, ge=1, le=1 << 16)
    learning_rate: float = Field(gt=0, le=100)
    backbone_learning_rate: float = Field(le=100)
    weight_decay: float = Field(default=1e-4, ge=0, le=10)
    poly_power: float = Field(default=0.9, ge=0, le=100)
    freeze_batchnorm: bool = True
    precision: Precision = "bfloat16"
    workers: Annotated[int, Unpinned()] = Field(default=0, ge=0, le=1024)
    processes: int = Field(default=1, ge=1, le=99)

    @field_validator("backbone_learning_rate")
    @classmethod
    def _backbone_learns(cls, rate: float) -> float:
        if rate <= 0:
            raise ValueError("must be above 0; a backbone is frozen by backbone.trainable: none")
        return rate

    @model_validator(mode="after")
    def _each_process_has_an_image(self) -> "OptimisationSettings":
        if self.processes > self.batch_size:
            raise ValueError("processes must not exceed batch_size, which they share")
        return self
