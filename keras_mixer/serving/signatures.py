"""What an exported model answers: its signatures, as TensorFlow functions."""

import dataclasses

import keras
import tensorflow as tf

from keras_mixer.catalog import ImageTransform
from keras_mixer.images import graph, preprocess


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
