"""The model as it is trained: its loss and its optimizer."""

import re

import keras
import tensorflow as tf
from keras import ops
from keras.optimizers import schedules

from keras_mixer import models
from keras_mixer.training.devices import MultiWorkerFit
from keras_mixer.training.distillation import DistilledStep
from keras_mixer.training.steps import AccumulatedStep, SharpnessAwareStep


class WarmUp(schedules.LearningRateSchedule):
    """Rise to where another schedule begins, then follow that.

    Keras' `CosineDecay` can warm up too, but wastes its first step at a rate of 0, and
    its linear decay cannot.

    Args:
        steps: Optimizer steps of linear warm-up from 0.
        decay: The schedule that follows.
    """

    def __init__(self, steps, decay):
        super().__init__()
        self.steps = steps
        self.decay = decay

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rate = self.decay(ops.maximum(step - self.steps, 0.0))
        return rate * ops.minimum((step + 1) / max(self.steps, 1), 1.0)

    def get_config(self):
        decay = keras.saving.serialize_keras_object(self.decay)
        return {"steps": self.steps, "decay": decay}


def make_optimizer(config, model, total_steps):
    """Make the optimizer of a `TrainConfig` for the variables of a model."""
    rate, end, steps = config.learning_rate, config.end_learning_rate, total_steps
    steps -= config.warmup_steps
    if config.decay == "cosine":
        decay = schedules.CosineDecay(rate, steps, alpha=end / rate if rate else 0.0)
    else:
        decay = schedules.PolynomialDecay(rate, steps, end)
    common = {
        "learning_rate": WarmUp(config.warmup_steps, decay),
        "weight_decay": config.weight_decay,
        "global_clipnorm": config.clip_norm or None,
        "use_ema": bool(config.ema_momentum),
        "ema_momentum": config.ema_momentum,
        # Not numbered by how many there were in the process: trackers keep it.
        "name": config.optimizer,
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

    Keras clips each replica's share of the gradient, so that R replicas let R times
    the norm through; here their sum is clipped. Weight decay is Keras' in fewer
    passes; Muon's own fails under `MirroredStrategy`.
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
        """Return a replica's share of the gradient as it is; the sum is clipped."""
        return grads

    def _all_reduce_sum_gradients(self, grads_and_vars):
        grads, variables = zip(
            *super()._all_reduce_sum_gradients(grads_and_vars), strict=True
        )
        if self.global_clipnorm:
            grads, _ = tf.clip_by_global_norm(grads, self.global_clipnorm)
        return list(zip(grads, variables, strict=True))

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


def build_model(config, start, classes):
    """Build the model of a `TrainConfig`, which returns logits.

    Args:
        config: A `TrainConfig`.
        start: The `Start` of the run.
        classes: Number of classes; the head is new where the start has others.
    """
    side = config.image_size or start.sizes.image_size
    model = models.MlpMixer(
        *start.sizes.sizes,
        name=start.name,
        weights=start.weights,
        classes=classes,
        input_shape=(side, side, 3),
        classifier_activation=None,
        dropout_rate=config.dropout_rate,
        stochastic_depth_rate=config.stochastic_depth_rate,
    )
    if config.eval_crop:
        # The saved model says how its images are to be prepared.
        model.get_layer("preprocessing").crop_ratio = config.eval_crop
    head = model.get_layer("head")
    if config.head_bias:
        head.bias.assign(ops.full(head.bias.shape, config.head_bias))
    if config.freeze_backbone:
        for layer in model.layers:
            layer.trainable = layer is head
    return model


def _sigmoid_loss(labels, logits):
    # The sum over the classes, as big_vision has it; Keras' own is their mean.
    return ops.sum(ops.binary_crossentropy(labels, logits, from_logits=True), -1)


def _softmax_loss(labels, logits):
    return ops.categorical_crossentropy(labels, logits, from_logits=True)


_LOSSES = {"softmax": _softmax_loss, "sigmoid": _sigmoid_loss}


def make_trainer(config, where, model, total_steps, teach=None):
    """Compile a model so that its `fit` does what a configuration asks for.

    Args:
        config: A `TrainConfig`.
        where: A `Distribution`, in whose scope this is called.
        model: What `build_model` returned; its layers are shared.
        total_steps: Optimizer steps in all.
        teach: The teacher, as `open_teacher` returns it.

    Returns:
        The compiled `keras.Model`; the optimizer without a loss-scaling one around it;
        and the metrics.
    """
    bases = [keras.Model]
    if teach:
        bases.insert(0, DistilledStep)
    if config.sam_rho:
        bases.insert(0, SharpnessAwareStep)
    if config.accumulation_steps > 1:
        bases.insert(0, AccumulatedStep)
    if where.num_workers > 1:
        bases.insert(0, MultiWorkerFit)
    trainer = type("Trainer", tuple(bases), {})(model.inputs, model.outputs)
    trainer.sam_rho = config.sam_rho
    trainer.accumulation_steps = config.accumulation_steps
    if teach:
        trainer.teach = teach
        trainer.teacher_weight = config.teacher_weight
        trainer.temperature = config.temperature
    optimizer = make_optimizer(config, model, total_steps)
    classes = model.output_shape[-1]
    metrics = [
        keras.metrics.CategoricalAccuracy(name="accuracy"),
        keras.metrics.TopKCategoricalAccuracy(min(5, classes), name="top5_accuracy"),
    ]
    trainer.compile(
        optimizer,
        _LOSSES[config.loss],
        weighted_metrics=metrics,
        # XLA does not compile the sums over several devices.
        jit_compile=config.jit_compile and where.strategy is None,
    )
    # Keras may have put a loss-scaling optimizer around it.
    trainer.optimizer.build(model.trainable_variables)
    return trainer, optimizer, metrics


def inference_copy(model, loss):
    """Copy a model of logits to one of scores, by softmax or sigmoid, in float32."""

    def copy(layer):
        config = layer.get_config()
        config["dtype"] = "float32"
        if layer.name == "head":
            config["activation"] = loss
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=copy)
