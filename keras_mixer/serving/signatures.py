"""What an exported model answers: its signatures, as TensorFlow functions."""

import dataclasses

import keras
import tensorflow as tf

from keras_mixer.images import graph
from keras_mixer.serving.classifier import Classifier, check_features


@dataclasses.dataclass(frozen=True)
class Signatures:
    """What a classifier answers when it is served.

    Attributes:
        classifier: The `Classifier`.
        top_k: How many classes to return.
        feature_layer: Name of the layer whose output the signature `features` gives;
            `None` for no such signature.
    """

    classifier: Classifier
    top_k: int
    feature_layer: str | None = None

    def functions(self):
        """Return the functions that `export_saved_model` describes, by name."""
        files = tf.TensorSpec([None], tf.string, name="image_bytes")
        examples = tf.TensorSpec([None], tf.string, name="inputs")
        size = self.classifier.size
        images = tf.TensorSpec([None, size, size, 3], name="images")
        signatures = {
            "serving_default": (self._serve_files, files),
            "images": (self._serve_images, images),
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
        probabilities = self.classifier.probabilities(images)
        return {**self._top_k(probabilities, valid), "valid": valid}

    def _serve_images(self, images):
        probabilities = self.classifier.probabilities(images)
        return {**self._top_k(probabilities), "probabilities": probabilities}

    def _classify(self, inputs):
        images, valid = self._decode(inputs, _file_of_example)
        answer = self._top_k(self.classifier.probabilities(images), valid)
        return {"classes": answer["top_k_labels"], "scores": answer["top_k_scores"]}

    def _feature_function(self):
        model = self.classifier.model
        extractor = keras.Model(
            model.inputs, model.get_layer(self.feature_layer).output
        )

        def serve(image_bytes):
            images, valid = self._decode(image_bytes)
            features = self.classifier.run(extractor, images)
            return {
                "features": tf.where(valid[:, tf.newaxis], features, 0.0),
                "valid": valid,
            }

        return serve

    def _decode(self, serialized, read=tf.identity):
        classifier = self.classifier
        return graph.decode_batch(
            serialized, classifier.size, classifier.transform, read
        )

    def _top_k(self, probabilities, valid=None):
        scores, indices = tf.math.top_k(probabilities, self.top_k)
        labels = tf.gather(tf.constant(self.classifier.labels), indices)
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


def signatures_of(classifier, top_k, features):
    """Check what is asked of a served classifier.

    Args:
        classifier: The `Classifier`.
        top_k: How many classes to return; five, or all of fewer, if None.
        features: Whether the pooled tokens are asked for.

    Returns:
        The `Signatures`.

    Raises:
        ValueError: If they do not fit the model.
    """
    model, classes = classifier.model, len(classifier.names)
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
    feature_layer = check_features(model) if features else None
    return Signatures(classifier, top_k, feature_layer)
