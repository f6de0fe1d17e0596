"""What an exported model answers: its signatures, as TensorFlow functions."""

import dataclasses
import os
import pathlib

import keras
import tensorflow as tf

from keras_mixer.catalog import TAGS, ImageTransform, transform_of
from keras_mixer.images import graph, imagenet_labels, preprocess, weights_labels


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model with what it needs to answer requests.

    Attributes:
        model: The Keras model, from `(batch, size, size, 3)` to `(batch, classes)`.
        transform: How its weights expect images.
        normalise: Whether the model leaves it to the caller to normalise pixels.
        from_logits: Whether the model gives logits.
        labels: Names of the classes.
        top_k: How many of them to return.
        feature_layer: Name of the layer whose output the signature `features` gives;
            `None` for no such signature.
    """

    model: keras.Model
    transform: ImageTransform
    normalise: bool
    from_logits: bool
    labels: tuple[str, ...]
    top_k: int
    feature_layer: str | None = None

    @property
    def size(self):
        """Side of the images, in pixels."""
        return self.model.input_shape[1]

    def signatures(self):
        """Return the functions that `export_saved_model` describes, by name."""
        files = tf.TensorSpec([None], tf.string, name="image_bytes")
        examples = tf.TensorSpec([None], tf.string, name="inputs")
        shape = [None, self.size, self.size, 3]
        signatures = {
            "serving_default": (self._serve_files, files),
            "images": (self._serve_images, tf.TensorSpec(shape, name="images")),
            "classify": (self._classify, examples),
        }
        if self.feature_layer is not None:
            signatures["features"] = (self._feature_function(), files)
        return {
            name: tf.function(serve, [spec], autograph=False).get_concrete_function()
            for name, (serve, spec) in signatures.items()
        }

    def _serve_files(self, image_bytes):
        images, valid = self._decode(image_bytes)
        return {**self._top_k(self._probabilities(images), valid), "valid": valid}

    def _serve_images(self, images):
        probabilities = self._probabilities(images)
        return {**self._top_k(probabilities), "probabilities": probabilities}

    def _classify(self, inputs):
        images, valid = self._decode(inputs, _file_of_example)
        answer = self._top_k(self._probabilities(images), valid)
        return {"classes": answer["top_k_labels"], "scores": answer["top_k_scores"]}

    def _feature_function(self):
        layer = self.model.get_layer(self.feature_layer)
        extractor = keras.Model(self.model.inputs, layer.output)

        def serve(image_bytes):
            images, valid = self._decode(image_bytes)
            features = self._run(extractor, images)
            return {
                "features": tf.where(valid[:, tf.newaxis], features, 0.0),
                "valid": valid,
            }

        return serve

    def _decode(self, serialized, read=tf.identity):
        return graph.decode_batch(serialized, self.size, self.transform, read)

    def _run(self, model, images):
        if self.normalise:
            images = preprocess.preprocess_input(images, weights=self.transform)
        # TensorFlow Serving's JSON knows no bfloat16.
        return tf.cast(model(images, training=False), tf.float32)

    def _probabilities(self, images):
        outputs = self._run(self.model, images)
        return tf.nn.softmax(outputs) if self.from_logits else outputs

    def _top_k(self, probabilities, valid=None):
        scores, indices = tf.math.top_k(probabilities, self.top_k)
        labels = tf.gather(tf.constant(self.labels), indices)
        if valid is not None:
            valid = valid[:, tf.newaxis]
            scores = tf.where(valid, scores, 0.0)
            indices = tf.where(valid, indices, 0)
            labels = tf.where(valid, labels, "")
        return {
            "top_k_labels": labels,
            "top_k_scores": scores,
            "top_k_indices": indices,
        }


def _file_of_example(serialized):
    features = {"image": tf.io.FixedLenFeature([], tf.string)}
    return tf.io.parse_single_example(serialized, features)["image"]


def classifier_of(model, labels, top_k, weights, features):
    """Check the arguments of `export_saved_model` that say what is answered.

    Returns:
        The `Classifier`.

    Raises:
        ValueError: If the model is no classifier of images, or they do not fit it.
    """
    classes = _check_shapes(model)
    from_logits = _gives_logits(model)
    transform, normalise = _transform(model, weights)
    labels = _labels(labels, classes)
    if top_k is None:
        top_k = min(5, classes)
    if isinstance(top_k, bool) or not isinstance(top_k, int):
        raise ValueError(f"top_k must be an integer. Received: top_k={top_k!r}.")
    if not 1 <= top_k <= classes:
        raise ValueError(
            "top_k must be from 1 to the number of classes. Received: "
            f"top_k={top_k}, and a model of {classes} classes. Pass top_k={classes} to "
            "get them all."
        )
    if features and "pool" not in [layer.name for layer in model.layers]:
        raise ValueError(
            "features are the outputs of the layer `pool`. Received: features=True, "
            f"and model {model.name!r} without such a layer. Leave features out."
        )
    return Classifier(
        model=model,
        transform=transform,
        normalise=normalise,
        from_logits=from_logits,
        labels=labels,
        top_k=top_k,
        feature_layer="pool" if features else None,
    )


def _check_shapes(model):
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


def _gives_logits(model):
    activation = getattr(model.layers[-1], "activation", None)
    if activation not in (keras.activations.softmax, keras.activations.linear):
        raise ValueError(
            "The last layer of model must be a classifier whose activation is softmax "
            "or None (logits), so that the scores are probabilities. Received: layer "
            f"{model.layers[-1].name!r} with activation "
            f"{getattr(activation, '__name__', None)}. Build it with include_top=True."
        )
    return activation is keras.activations.linear


def _transform(model, weights):
    """Return the `ImageTransform`, and whether the model leaves normalising to it."""
    layer = preprocess.preprocessing_layer(model)
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


def _labels(labels, classes):
    source = "labels"
    if labels is None:
        labels = [str(index) for index in range(classes)]
    elif isinstance(labels, str) and labels == "imagenet":
        source = 'labels="imagenet"'
        labels = [label for _, label in imagenet_labels(classes)]
    elif isinstance(labels, str) and labels in TAGS:
        source = f"labels={labels!r}"
        labels = [label for _, label in weights_labels(labels)]
    elif isinstance(labels, (str, os.PathLike)):
        source = f"the file {os.fspath(labels)!r}"
        labels = _read_labels(labels)
    labels = [str(label) for label in labels]
    if len(labels) != classes:
        raise ValueError(
            "labels must name each class of the model, in the order of its outputs. "
            f"Received: {source} with {len(labels)} names, and a model of {classes} "
            "classes."
        )
    for index, label in enumerate(labels):
        if not label or "\n" in label:
            raise ValueError(
                "A label must be a line of text that is not empty. Received: "
                f"{label!r} for class {index} in {source}."
            )
    return tuple(labels)


def _read_labels(path):
    try:
        return pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            "labels must be a list, the path of a UTF-8 text file with one name a "
            'line, or a tag of the catalogue such as "imagenet". Received: '
            f"{os.fspath(path)!r} ({error})."
        ) from error
