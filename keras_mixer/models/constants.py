"""Layers whose files of weights say what the weights were trained with."""

from typing import Any

import keras
import numpy as np


class KeepsConstants(keras.layers.Layer):
    """A layer that saves constants beside its weights.

    Weights made with other values of the constants that `must_agree` names are refused.
    The output has the shape of the input.
    """

    must_agree: tuple[str, ...] = ()

    def constants(self) -> dict[str, Any]:
        raise NotImplementedError

    def save_own_variables(self, store):
        for name, value in self.constants().items():
            store[name] = np.asarray(value)

    def load_own_variables(self, store):
        present = store.keys()  # all a Keras store can be asked for
        for name in self.must_agree:
            mine = np.asarray(self.constants()[name])
            if name in present and not np.array_equal(store[name], mine):
                raise ValueError(
                    "Weights must be used with the constants they were trained with. "
                    f"Received: a file with {name}={np.asarray(store[name]).tolist()} "
                    f"for {self.name}, built with {mine.tolist()}. Build the model "
                    "with weights=PATH, which takes the file's."
                )

    def compute_output_shape(self, input_shape):
        return input_shape
