"""Arrays by the type of their numbers; docstrings give shapes and ranges."""

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
UInt8Array = NDArray[np.uint8]
IntegerArray = NDArray[np.integer]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
FloatArray = Float32Array | Float64Array
