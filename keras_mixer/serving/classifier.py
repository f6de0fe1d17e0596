"""A model that labels images, with what it takes to export it or to ask it."""

import dataclasses

import keras

from keras_mixer.catalog import ImageTransform, transform_of
from keras_mixer.images import class_names, preprocess_input, preprocessing_layer


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model, how its images are prepared, and what its classes are called.

    Attributes:
        model: The Keras model, from `(batch, size, size, 3)` to `(batch, classes)`.
        transform: How its weights expect images.
        normalise: Whether the model leaves it to the caller to normalise pixels.
        from_logits: Whether the model gives logits.
        names: A pair `(class, label)` for each class.
    """

    model: keras.Model
    transform: ImageTransform
    normalise: bool
    from_logits: bool
    names: tuple[tuple[str, str], ...]

    @property
    def size(self):
        """Side of the images, in pixels."""
        return self.model.input_shape[1]

    @property
    def labels(self):
        """The label of each class."""
        return tuple(label for _, label in self.names)

    def probabilities(self, images):
        """Probabilities, float32 `(batch, classes)`, of a tensor of crops."""
        outputs = self.run(self.model, images)
        return keras.ops.softmax(outputs) if self.from_logits else outputs

    def run(self, model, images):
        """What `model`, or a part of it, makes of crops with pixels in [0, 255]."""
        if self.normalise:
            images = preprocess_input(images, weights=self.transform)
        # TensorFlow Serving's JSON, for one, knows no bfloat16.
        return keras.ops.cast(model(images, training=False), "float32")


def check_backend(what):
    """Refuse to export on another backend of Keras than TensorFlow.

    Args:
        what: What is exported, as the subject of a sentence.

    Raises:
        ValueError: On another backend.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"{what} is exported by Keras' TensorFlow backend. Received: the backend "
            f"{keras.backend.backend()}. Save the model as a .keras file, and export "
            "that file in a process with KERAS_BACKEND=tensorflow."
        )


def classifier_of(model, labels, weights):
    """Check that a model labels images, and find out how.

    Args:
        model: A Keras model.
        labels: As `keras_mixer.images.class_names` takes them.
        weights: As `transform_of_model` takes it.

    Returns:
        The `Classifier`.

    Raises:
        ValueError: If the model is no classifier of images, or they do not fit it.
    """
    classes = check_shapes(model)
    _check_gives_scores(model)
    transform, normalise = transform_of_model(model, weights)
    names = class_names(labels, classes)
    return Classifier(model, transform, normalise, gives_logits(model), names)


def check_shapes(model):
    """Refuse a model that does not map square images to scores of classes.

    Returns:
        The number of classes.

    Raises:
        ValueError: If it does not.
    """
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[3] != 3:
        raise ValueError(
            "model must take images of shape (batch, height, width, 3). Received: "
            f"{type(model).__name__} with input shape {shape}."
        )
    _, height, width, _ = shape
    if height is None or height != width:
        raise ValueError(
            "The exported model crops squares of a known size. Received: a model for "
            f"images of {height} x {width} pixels."
        )
    if len(model.output_shape) != 2:
        raise ValueError(
            "model must be a classifier, with outputs of shape (batch, classes). "
            f"Received: output shape {model.output_shape}. Build it with "
            "include_top=True."
        )
    return model.output_shape[1]


def check_features(model):
    """The name of the layer whose outputs are the features of an image.

    Raises:
        ValueError: If the model has none.
    """
    if "pool" not in [layer.name for layer in model.layers]:
        raise ValueError(
            "features are the outputs of the layer `pool`. Received: features=True, "
            f"and model {model.name!r} without such a layer. Leave features out."
        )
    return "pool"


def gives_logits(model):
    """Whether the last layer of a model has no activation."""
    return _last_activation(model) is keras.activations.linear


def _check_gives_scores(model):
    activation = _last_activation(model)
    if activation not in (keras.activations.softmax, keras.activations.linear):
        *_, last = leaves(model)
        raise ValueError(
            "The last layer of model must be a classifier whose activation is softmax "
            "or None (logits), so that the scores are probabilities. Received: layer "
            f"{last.name!r} with activation {getattr(activation, '__name__', None)}. "
            "Build it with include_top=True."
        )


def _last_activation(model):
    *_, last = leaves(model)
    return getattr(last, "activation", None)


def transform_of_model(model, weights):
    """Return how a model's images are prepared.

    Args:
        model: A Keras model.
        weights: Tag of the weights of a model without a layer `preprocessing`, or None.

    Returns:
        The `ImageTransform`, and whether normalising is left to the caller.

    Raises:
        ValueError: If the tag is missing, or there is one too many.
    """
    layer = preprocessing_layer(model)
    if layer is not None:
        if weights is not None:
            raise ValueError(
                "weights is for a model without a layer named `preprocessing`. "
                f"Received: weights={weights!r}, and model {model.name!r}, which "
                "normalises its own input. Leave weights out."
            )
        transform = ImageTransform(
            layer.mean, layer.std, layer.interpolation, layer.crop_ratio
        )
        return transform, False
    if weights is None:
        raise ValueError(
            "The exported model takes image files, and has to know how its weights "
            f"expect them. Received: model {model.name!r} without a layer named "
            "`preprocessing`, and weights=None. Name the tag of its weights, as in "
            'weights="imagenet".'
        )
    return transform_of(weights), True


def leaves(model):
    """Yield the layers of a model, and of the models in it, in their order."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer)
        else:
            yield layer
