"""Training steps other than Keras' own: one in parts, and one that looks around."""

import keras
import tensorflow as tf


class AccumulatedStep:
    """Computes a batch in parts, one after the other; goes before `keras.Model`.

    With Keras' `gradient_accumulation_steps` the schedule and the moving average count
    the parts as steps, and it fails under `MirroredStrategy`. Here an update is a step.
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
