"""What the recipes ask of an optimizer and Keras does not have in one piece."""

import math
import re

import keras
import tensorflow as tf
from keras import ops


@keras.saving.register_keras_serializable("keras_mixer")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Warm up linearly from 0, then decay along a cosine or a line.

    Args:
        learning_rate: Rate at the end of the warm-up.
        end_learning_rate: Rate at `total_steps`, and after.
        warmup_steps: Optimizer steps of warm-up.
        total_steps: Optimizer steps in all.
        decay: `"cosine"` or `"linear"`.
    """

    def __init__(
        self, learning_rate, end_learning_rate, warmup_steps, total_steps, decay
    ):
        super().__init__()
        self.learning_rate = learning_rate
        self.end_learning_rate = end_learning_rate
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.decay = decay

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = self.learning_rate * (step + 1) / max(self.warmup_steps, 1)
        length = max(self.total_steps - self.warmup_steps, 1)
        done = ops.clip((step - self.warmup_steps) / length, 0.0, 1.0)
        left = 1 - done
        if self.decay == "cosine":
            left = 0.5 * (1 + ops.cos(math.pi * done))
        end = self.end_learning_rate
        decayed = end + (self.learning_rate - end) * left
        return ops.where(step < self.warmup_steps, warmup, decayed)

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "end_learning_rate": self.end_learning_rate,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "decay": self.decay,
        }


def make_optimizer(config, model, total_steps):
    """Make the optimizer of a `TrainConfig` for a model.

    Args:
        config: A `TrainConfig`.
        model: The model whose variables it will update.
        total_steps: Optimizer steps in all, for the schedule.

    Returns:
        A `keras.optimizers.Optimizer`, not built yet.
    """
    common = {
        "learning_rate": WarmupDecay(
            config.learning_rate,
            config.end_learning_rate,
            config.warmup_steps,
            total_steps,
            config.decay,
        ),
        "weight_decay": config.weight_decay or None,
        "global_clipnorm": config.clip_norm or None,
        "use_ema": bool(config.ema_momentum),
        "ema_momentum": config.ema_momentum,
    }
    if config.optimizer == "sgd":
        optimizer = RatedSGD(momentum=0.9, **common)
    elif config.optimizer == "muon":
        # Its authors leave the classifier to Adam, as all that is no matrix.
        optimizer = RatedMuon(exclude_layers=["head"], **common)
    else:
        optimizer = RatedAdamW(**common)
    optimizer.exclude_from_weight_decay(
        var_list=[v for v in model.trainable_variables if v.name != "kernel"]
    )
    if config.layer_decay < 1:
        optimizer.set_rates(model, config.layer_decay)
    return optimizer


class _Rated:
    """A learning rate of its own for each layer; goes before an optimizer class.

    Clipping and weight decay are Keras' in fewer passes. Muon's own decay also fails
    under `MirroredStrategy`, since it does not go through `update_step`.
    """

    def set_rates(self, model, layer_decay):
        """Multiply the rate by `layer_decay` for each block further from the head."""
        names = [re.match(r"block(\d+)_", layer.name) for layer in model.layers]
        blocks = 1 + max(int(name[1]) for name in names if name)
        self._rates = {}
        for layer, name in zip(model.layers, names, strict=True):
            if name:
                distance = blocks - int(name[1])
            else:
                distance = blocks + 1 if layer.name == "stem" else 0
            for variable in layer.trainable_variables:
                self._rates[self._var_key(variable)] = layer_decay**distance

    def _clip_gradients(self, grads):
        if not self.global_clipnorm:
            return grads
        clipped, _ = tf.clip_by_global_norm(grads, self.global_clipnorm)
        return clipped

    def _apply_weight_decay(self, variables):
        """Do nothing: `update_step` does it."""

    def update_step(self, gradient, variable, learning_rate):
        if self.weight_decay and self._use_weight_decay(variable):
            decay = ops.cast(learning_rate * self.weight_decay, variable.dtype)
            variable.assign(variable * (1 - decay))
        rate = getattr(self, "_rates", {}).get(self._var_key(variable), 1.0)
        super().update_step(gradient, variable, learning_rate * rate)

    def finalize_variable_values(self, var_list):
        """Do nothing: Keras would put the average in place at the end of each `fit`,
        and a run is more than one."""

    def put_average(self, variables):
        """Set the model's trainable variables to their moving averages."""
        super().finalize_variable_values(variables)


class _FusedAdamW(keras.optimizers.AdamW):
    """AdamW whose update of a variable is one op, not a dozen passes over it."""

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        power = ops.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=self.beta_1**power,
            beta2_power=self.beta_2**power,
            lr=ops.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=ops.cast(gradient, variable.dtype),
        )


def _handle(variable):
    # Under a strategy Keras hands over TensorFlow's own variable.
    if isinstance(variable, keras.Variable):
        variable = variable.value
    return variable.handle


class RatedAdamW(_Rated, _FusedAdamW):
    pass


class RatedSGD(_Rated, keras.optimizers.SGD):
    pass


class RatedMuon(_Rated, keras.optimizers.Muon):
    pass


class AccumulatedStep:
    """Computes a batch in parts, one after the other; goes before `keras.Model`.

    Keras' `gradient_accumulation_steps` cannot be used under `MirroredStrategy`: it
    puts the update, where replicas meet, into a branch. Here it is the sum of the
    parts' gradients that branches, and an update is a step.
    """

    accumulation_steps = 1

    def train_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        parts = self.accumulation_steps
        x = tf.reshape(x, (parts, -1, *x.shape[1:]))
        y = tf.reshape(y, (parts, -1, *y.shape[1:]))
        variables = self.trainable_variables

        def add_part(number, sums):
            gradients, loss, y_pred = _gradients(self, x[number], y[number])
            _note_loss(self, loss, y[number])
            self.compute_metrics(x[number], y[number], y_pred, None)
            sums = [s + g / parts for s, g in zip(sums, gradients, strict=True)]
            return number + 1, sums

        _, sums = tf.while_loop(
            lambda number, _: number < parts,
            add_part,
            [0, [tf.zeros(v.shape) for v in variables]],
            parallel_iterations=1,
        )
        self.optimizer.apply_gradients(zip(sums, variables, strict=True))
        return self.get_metrics_result()


class SharpnessAwareStep:
    """Steps by the gradient at the worst point nearby; goes before `keras.Model`.

    That point is `sam_rho` away in the direction of the gradient. Two passes a step.

    Reference:
        Foret et al., 2020 (arXiv 2010.01412), algorithm 1; for Mixer, Chen et al.,
        2021 (arXiv 2106.01548).
    """

    sam_rho = 0.0

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.trainable_variables
        here, loss, y_pred = _gradients(self, x, y)
        values = [tf.identity(variable.value) for variable in variables]
        scale = self.sam_rho / (tf.linalg.global_norm(here) + 1e-12)
        for variable, gradient in zip(variables, here, strict=True):
            variable.assign_add(scale * gradient)
        there, _, _ = _gradients(self, x, y)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self.optimizer.apply_gradients(zip(there, variables, strict=True))
        _note_loss(self, loss, y)
        return self.compute_metrics(x, y, y_pred, sample_weight)


def _gradients(model, x, y):
    """Return the gradients of the loss, scaled as the optimizer wants, and the loss."""
    with tf.GradientTape() as tape:
        y_pred = model(x, training=True)
        loss = model.compute_loss(x, y, y_pred, training=True)
        scaled = model.optimizer.scale_loss(loss)
    return tape.gradient(scaled, model.trainable_variables), loss, y_pred


def _note_loss(model, loss, y):
    # compute_loss gives a replica's share of the loss.
    loss = loss * model.distribute_strategy.num_replicas_in_sync
    model.metrics[0].update_state(loss, sample_weight=tf.shape(y)[0])
