"""The model as it is trained: logits, loss, metrics, and what `fit` needs."""

import keras
from keras import ops

from keras_mixer.models import mixer
from keras_mixer.training import devices, optimizers


def build_model(config, classes):
    """Build the model of a `TrainConfig`, which returns logits.

    Args:
        config: A `TrainConfig`.
        classes: Number of classes.

    Returns:
        A Functional `keras.Model`, under the global dtype policy.

    Raises:
        ValueError: If the weights or the image size do not fit the model.
    """
    side = config.image_size or mixer.VARIANTS[config.model].image_size
    model = getattr(mixer, config.model)(
        weights=config.weights,
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


def make_trainer(config, where, model, total_steps):
    """Compile a model so that its `fit` does what a configuration asks for.

    Args:
        config: A `TrainConfig`.
        where: A `Distribution`, in whose scope this is called.
        model: What `build_model` returned; its layers are shared.
        total_steps: Optimizer steps in all.

    Returns:
        The compiled `keras.Model`, with its optimizer built; the optimizer without a
        loss-scaling one around it; and the metrics.
    """
    bases = [keras.Model]
    if config.sam_rho:
        bases.insert(0, optimizers.SharpnessAwareStep)
    if config.accumulation_steps > 1:
        bases.insert(0, optimizers.AccumulatedStep)
    if where.num_workers > 1:
        bases.insert(0, devices.MultiWorkerFit)
    trainer = type("Trainer", tuple(bases), {})(model.inputs, model.outputs)
    trainer.sam_rho = config.sam_rho
    trainer.accumulation_steps = config.accumulation_steps
    optimizer = optimizers.make_optimizer(config, model, total_steps)
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
    """Copy a model that returns logits to one that returns scores, in float32.

    Args:
        model: What `build_model` returned.
        loss: The loss of the `TrainConfig`, which is also the head's activation.

    Returns:
        A Functional `keras.Model` of fresh weights.
    """

    def copy(layer):
        config = layer.get_config()
        config["dtype"] = "float32"
        if layer.name == "head":
            config["activation"] = loss
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=copy)
