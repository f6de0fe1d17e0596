"""Ours: the exported SavedModel in a session, as TensorFlow Serving runs it.

python tests/benchmarks/ours_inference.py FOLDER PRECISION
"""

import os
import pathlib
import sys

import contender

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# As export/tf_serving/compose.yaml and export/local_server.py set it.
os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] = "1"
# The server has no Keras; without this TensorFlow would import it.
sys.modules["keras"] = None

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

tf1 = tf.compat.v1


def _session(graph=None):
    return tf1.Session(
        graph=graph,
        config=tf1.ConfigProto(
            intra_op_parallelism_threads=contender.THREADS,
            inter_op_parallelism_threads=contender.THREADS,
        ),
    )


class SavedModel(contender.Inference):
    def load(self, folder, precision):
        self.files = [path.read_bytes() for path in sorted(folder.glob("files/*.jpg"))]
        session = _session(tf.Graph())
        with session.graph.as_default():
            path = str(folder / "saved_model" / precision / "1")
            meta = tf1.saved_model.load(session, ["serve"], path)

        def callable_of(signature, output):
            definition = meta.signature_def[signature]
            ((_, given),) = definition.inputs.items()
            # All outputs are computed, as for a request.
            names = [definition.outputs[output].name]
            names += sorted(
                {info.name for info in definition.outputs.values()} - set(names)
            )
            return session.make_callable(names, [given.name])

        self._images = callable_of("images", "probabilities")
        self._files = callable_of("serving_default", "top_k_scores")

    def run(self, images):
        return self._images(images)[0]

    def serve_files(self, batch, repeats, warm_up):
        files = np.array(self.files[:batch], object)
        return contender.timed(lambda: self._files(files), repeats, warm_up)

    def product(self, rows, inner, columns, repeats):
        """Return the seconds of float32 products `(rows, inner) @ (inner, columns)`."""
        with _session(tf.Graph()) as session, session.graph.as_default():
            a = tf1.get_variable("a", initializer=tf.random.normal((rows, inner)))
            b = tf1.get_variable("b", initializer=tf.random.normal((inner, columns)))
            # One element is fetched: the product stays where it is.
            run = session.make_callable(tf.matmul(a, b)[0, 0])
            session.run(tf1.global_variables_initializer())
            return contender.timed(run, repeats, warm_up=2)


if __name__ == "__main__":
    contender.answer(SavedModel(pathlib.Path(sys.argv[1]), sys.argv[2]))
