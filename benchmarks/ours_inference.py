"""Ours: the exported SavedModel in a session, as TensorFlow Serving runs it.

python benchmarks/ours_inference.py FOLDER PRECISION
"""

import collections
import os
import pathlib
import re
import sys

import contender

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# The settings of `keras-mixer serve` come with the environment: `Arena` has them.
# The server has no Keras; without this TensorFlow would import it.
sys.modules["keras"] = None

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

tf1 = tf.compat.v1


def _part(node):
    """Where in the model an op is, and what it is."""
    op = re.search(r"= (\w+)\(", node.timeline_label)
    layer = re.search(r"/(?:block\d+_)?([a-z_]+)_\d+/", node.node_name)
    return f"{layer[1] if layer else '-'}: {op[1] if op else '-'}"


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

        self._session = session
        self._signature = meta.signature_def["images"]
        self._images = callable_of("images", "probabilities")
        self._files = callable_of("serving_default", "top_k_scores")

    def run(self, images):
        return self._images(images)[0]

    def serve_files(self, batch, repeats, warm_up):
        files = np.array(self.files[:batch], object)
        return contender.timed(lambda: self._files(files), repeats, warm_up)

    def profile(self, batch, repeats):
        """Return milliseconds in a call, by part of the model and op."""
        ((_, given),) = self._signature.inputs.items()
        names = [info.name for info in self._signature.outputs.values()]
        totals = collections.Counter()
        for _ in range(repeats):
            metadata = tf1.RunMetadata()
            self._session.run(
                names,
                {given.name: self.images[:batch]},
                options=tf1.RunOptions(trace_level=tf1.RunOptions.FULL_TRACE),
                run_metadata=metadata,
            )
            for device in metadata.step_stats.dev_stats:
                for node in device.node_stats:
                    nanoseconds = node.op_end_rel_nanos - node.op_start_rel_nanos
                    totals[_part(node)] += nanoseconds / 1e6 / repeats
        return dict(totals)

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
