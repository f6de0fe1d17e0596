"""Print what kernels a session runs SavedModels with, a count of each, as JSON.

    python tests/support/session_kernels.py FOLDER...

A process of its own: TensorFlow reads TF_ENABLE_ONEDNN_OPTS once.
"""

import collections
import json
import sys

import numpy as np


def kernels_of(version):
    """Ops from the images to the probabilities, with what they fuse."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    with tf.Graph().as_default(), tf1.Session() as session:
        meta = tf1.saved_model.load(session, ["serve"], version)
        signatures = meta.signature_def
        signature = signatures.get("images", signatures["serving_default"])
        ((_, given),) = signature.inputs.items()
        outputs = signature.outputs
        asked = outputs.get("probabilities") or next(iter(outputs.values()))
        size = given.tensor_shape.dim[1].size
        metadata = tf1.RunMetadata()
        session.run(
            asked.name,
            {given.name: np.zeros((2, size, size, 3), "float32")},
            options=tf1.RunOptions(output_partition_graphs=True),
            run_metadata=metadata,
        )
    return collections.Counter(
        " ".join([node.op, *(op.decode() for op in node.attr["fused_ops"].list.s)])
        for partition in metadata.partition_graphs
        for node in partition.node
    )


if __name__ == "__main__":
    print(json.dumps([kernels_of(version) for version in sys.argv[1:]]))
