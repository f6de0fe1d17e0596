"""Knowledge distillation: a model learns a teacher's scores beside the labels.

Reference:
    Hinton et al., 2015 (arXiv 1503.02531), section 2. That both see the same crop:
    Beyer et al., 2021 (arXiv 2106.05237).
"""

import keras
import tensorflow as tf

from keras_mixer import images, models
from keras_mixer.catalog import TAGS

_RULE = "The teacher must be"


class DistilledStep:
    """Adds what a teacher says to the loss of training; goes before `keras.Model`.

    The loss is `(1 - weight) * loss + weight * temperature**2 * KL(teacher || model)`,
    the divergence being that of softmax scores at the temperature.

    Attributes:
        teach: Function from pixels, `(batch, height, width, 3)` in [0, 255], to the
            teacher's logits `(batch, classes)`. A function, since a model would be
            trained and saved as a part of this one.
        teacher_weight: The weight, in [0, 1].
        temperature: Above 0; the higher, the more the classes count that are not best.
    """

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        # Keras' LogitsDistillation takes logits for probabilities, unless it is handed
        # an instance of KLDivergence (3.15.1), which then cuts them off at 1e-7.
        theirs, ours = (
            tf.nn.log_softmax(tf.cast(logits, tf.float32) / self.temperature)
            for logits in (self.teach(x), y_pred)
        )
        divergence = tf.reduce_sum(tf.exp(theirs) * (theirs - ours), -1)
        taught = self.temperature**2 * tf.reduce_mean(divergence)
        # Like Keras' own, a replica's share.
        taught /= self.distribute_strategy.num_replicas_in_sync
        return (1 - self.teacher_weight) * loss + self.teacher_weight * taught


def open_teacher(teacher, precision, image_size, class_names):
    """Open the teacher of a training run.

    Args:
        teacher: The path of a `.keras` file, the folder of a training run, or a named
            model and its weights, as `MlpMixerB16:imagenet`.
        precision: The policy that it computes by.
        image_size: `(height, width)` of the images that it will see, in pixels.
        class_names: Names of the classes, in order.

    Returns:
        A function from pixels in [0, 255], `(batch, height, width, 3)`, to float32
        logits `(batch, classes)`; those of softmax scores up to a constant.

    Raises:
        ValueError: If there is no such model, or it is of other classes or another
            input.
    """
    name, _, tag = teacher.partition(":")
    weights = tag if tag in TAGS else None
    name = name if weights else teacher
    if name in models.VARIANTS and not weights:
        raise ValueError(
            f"{_RULE} trained. Received: {teacher!r}, whose weights are random. Name "
            f"them as well, as {name}:imagenet, or a .keras file."
        )
    model = models.open_model(name, weights)
    if model.input_shape[1:] != (*image_size, 3):
        raise ValueError(
            f"{_RULE} of the same input as the model, {image_size[0]} x "
            f"{image_size[1]} pixels. Received: {teacher!r}, which takes "
            f"{model.input_shape[1:]}. Set --image_size, or take another teacher."
        )
    if model.output_shape[1:] != (len(class_names),):
        raise ValueError(
            f"{_RULE} of the same classes as the data set, which has "
            f"{len(class_names)}. Received: {teacher!r}, whose output is "
            f"{model.output_shape[1:]}. Fine-tune the teacher on this data set first."
        )
    labels = models.default_labels(name, weights, len(class_names))
    # A file may have no labels; what is assumed of it then is nothing to refuse it by.
    if weights or hasattr(labels, "read_text"):
        theirs = images.class_names(labels, len(class_names))
        if tuple(class_names) not in zip(*theirs, strict=True):
            raise ValueError(
                f"{_RULE} of the same classes as the data set, in the same order: "
                f"{', '.join(class_names[:5])}... Received: {teacher!r}, with "
                f"{', '.join(label for _, label in theirs[:5])}... Fine-tune the "
                "teacher on this data set first."
            )
    logits = _logits_of(model, teacher, precision)
    return lambda x: tf.stop_gradient(logits(x, training=False))


def _logits_of(model, teacher, precision):
    """Copy a classifier without its last activation, to compute by a precision."""
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    known = {keras.activations.get(a) for a in ("softmax", "sigmoid", "linear")}
    if activation not in known:
        raise ValueError(
            f"{_RULE} a classifier that ends in a layer of softmax, sigmoid or no "
            f"activation. Received: {teacher!r}, which ends in layer {last.name!r}."
        )

    def copy(layer):
        config = layer.get_config()
        if layer is last:
            config |= {"dtype": "float32", "activation": None}
        elif layer.name != "preprocessing":  # is exact under every policy
            config["dtype"] = precision
        return type(layer).from_config(config)

    taught = keras.models.clone_model(model, clone_function=copy)
    taught.set_weights(model.get_weights())
    return taught
