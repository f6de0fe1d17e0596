"""`export_saved_model`: what the exported model answers, and by which means."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from serving_support import (
    IMAGE_SIZE,
    LABELS,
    crops,
    example,
    meta_graph,
    random_model,
    run_signature,
    signatures_of,
)

from keras_mixer.serving import export, verification

SUPPORT = pathlib.Path(__file__).parents[1] / "support"

# All ops of an export, with each option and activation. TensorFlow 2.20.0 knows them
# all, and runs such an export: both were tried with that release.
OPS = """
Abs AddV2 All Any ArgMax Assert AssignVariableOp BatchDatasetV2 BiasAdd Case Cast Ceil
ConcatV2 ConcatenateDataset Const Conv2D Cumsum DatasetToSingleElement DecodeImage
DecodeJpeg DecodePng DecodeRaw DenseBincount DisableCopyOnRead EnsureShape Equal Erfc
ExpandDims ExtractJpegShape Fill Floor FloorDiv FloorMod FusedBatchNormV3 GatherV2
Greater GreaterEqual Identity If IgnoreErrorsDataset Less LessEqual LogicalAnd
LogicalNot LogicalOr MatMul Max Maximum Mean MergeV2Checkpoints Min Minimum Mul Neg NoOp
NotEqual OptionsDataset Pack ParallelMapDatasetV2 ParseExampleV2 PartitionedCall
Placeholder Pow Prod Range ReadVariableOp RealDiv ReduceJoin Reshape RestoreV2 ReverseV2
RightShift Round Rsqrt SaveV2 ScatterNd Select SelectV2 Shape ShardedFilename Sign Size
Slice Softmax SquaredDifference Squeeze StatefulPartitionedCall StatelessCase
StatelessIf StatelessWhile StaticRegexFullMatch StopGradient StridedSlice StringJoin
StringLength StringSplitV2 Sub Substr Sum Tanh TensorDataset TensorSliceDataset TopKV2
Transpose Unpack VarHandleOp Where
"""


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def version(exported):
    return exported / "1"


@pytest.fixture(scope="module")
def signatures(version):
    return signatures_of(version)


def test_export_saved_model_has_the_signatures_of_the_contract(version):
    def described(tensors):
        return {
            name: (
                tf.dtypes.as_dtype(info.dtype).name,
                [dim.size for dim in info.tensor_shape.dim],
            )
            for name, info in tensors.items()
        }

    top_k = {
        "top_k_labels": ("string", [-1, 3]),
        "top_k_scores": ("float32", [-1, 3]),
        "top_k_indices": ("int32", [-1, 3]),
    }
    valid = {"valid": ("bool", [-1])}
    found = {
        name: (described(definition.inputs), described(definition.outputs))
        for name, definition in meta_graph(version).signature_def.items()
        if not name.startswith("__")
    }
    assert found == {
        "serving_default": ({"image_bytes": ("string", [-1])}, top_k | valid),
        "images": (
            {"images": ("float32", [-1, IMAGE_SIZE, IMAGE_SIZE, 3])},
            top_k | {"probabilities": ("float32", [-1, 7])},
        ),
        "classify": (
            {"inputs": ("string", [-1])},
            {"classes": ("string", [-1, 3]), "scores": ("float32", [-1, 3])},
        ),
        "features": (
            {"image_bytes": ("string", [-1])},
            {"features": ("float32", [-1, 16])} | valid,
        ),
    }
    definitions = meta_graph(version).signature_def
    methods = {name: definitions[name].method_name for name in found}
    assert methods.pop("classify") == "tensorflow/serving/classify"
    assert set(methods.values()) == {"tensorflow/serving/predict"}


def test_export_saved_model_answers_as_the_model(signatures, model, files):
    images = crops(files.values())
    expected = model.predict(images, verbose=0)
    answer = run_signature(signatures["images"], images=images)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    order = np.argsort(-expected, axis=1)[:, :3]
    np.testing.assert_array_equal(answer["top_k_indices"], order)
    np.testing.assert_allclose(
        answer["top_k_scores"], np.take_along_axis(expected, order, 1), atol=1e-6
    )
    labels = np.vectorize(bytes.decode)(answer["top_k_labels"])
    np.testing.assert_array_equal(labels, np.array(LABELS)[order])
    # The photographs are told apart: equality above is not that of constants.
    assert expected.std(axis=0).max() > 0.02


def test_export_saved_model_crops_files_as_load_image(signatures, model, files):
    files = list(files.values())
    answer = run_signature(signatures["serving_default"], image_bytes=files)
    expected = np.sort(model.predict(crops(files), verbose=0))[:, :-4:-1]
    assert answer["valid"].all()
    np.testing.assert_allclose(answer["top_k_scores"], expected, atol=1e-6)


def test_export_saved_model_classifies_examples_as_files(signatures, files):
    files = list(files.values())
    by_file = run_signature(signatures["serving_default"], image_bytes=files)
    by_example = run_signature(
        signatures["classify"], inputs=[example(file) for file in files]
    )
    np.testing.assert_array_equal(by_example["classes"], by_file["top_k_labels"])
    np.testing.assert_allclose(by_example["scores"], by_file["top_k_scores"], atol=1e-6)


def test_export_saved_model_gives_features(signatures, model, files):
    answer = run_signature(
        signatures["features"], image_bytes=[*files.values(), b"none"]
    )
    assert answer["valid"].tolist() == [True] * len(files) + [False]
    head = model.get_layer("head")
    probabilities = head(answer["features"][:-1]).numpy()
    expected = run_signature(
        signatures["serving_default"], image_bytes=list(files.values())
    )
    np.testing.assert_allclose(
        probabilities.max(axis=1), expected["top_k_scores"][:, 0], atol=1e-6
    )
    assert not answer["features"][-1].any()


def test_export_saved_model_answers_good_images_among_bad_ones(signatures, files):
    good = list(files.values())
    bad = [b"", good[0][:99], b"GIF89a", b"<svg/>", good[1][:-9], b"\xff\xd8\xff"]
    alone = run_signature(signatures["serving_default"], image_bytes=good)
    mixed = [file for pair in zip(good, bad, strict=True) for file in pair]
    answer = run_signature(signatures["serving_default"], image_bytes=mixed)
    assert answer["valid"].tolist() == [True, False] * len(good)
    np.testing.assert_allclose(
        answer["top_k_scores"][::2], alone["top_k_scores"], atol=1e-6, rtol=0
    )
    np.testing.assert_array_equal(answer["top_k_labels"][::2], alone["top_k_labels"])
    assert not answer["top_k_scores"][1::2].any()
    assert not answer["top_k_indices"][1::2].any()
    assert set(answer["top_k_labels"][1::2].flat) == {b""}


def test_export_saved_model_answers_good_examples_among_bad_ones(signatures, files):
    good = example(files["cat"])
    number = tf.train.Feature(int64_list=tf.train.Int64List(value=[3]))
    features = tf.train.Features(feature={"image": number})
    bad = [b"junk", b"", tf.train.Example(features=features).SerializeToString()]
    answer = run_signature(signatures["classify"], inputs=[bad[0], good, *bad[1:]])
    alone = run_signature(signatures["classify"], inputs=[good])
    np.testing.assert_allclose(answer["scores"][1], alone["scores"][0], atol=1e-6)
    assert not answer["scores"][[0, 2, 3]].any()


def test_export_saved_model_gives_probabilities_of_logits(tmp_path, files, model):
    options = {"classifier_activation": None, "include_preprocessing": False}
    logits = random_model(**options)
    logits.set_weights(model.get_weights())
    path = export.export_saved_model(logits, tmp_path, weights="imagenet")
    images = crops(files.values())
    answer = run_signature(signatures_of(path)["images"], images=images)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    assert answer["top_k_labels"][0, 0].decode() == str(np.argmax(expected[0]))


@pytest.mark.slow
def test_export_saved_model_runs_by_the_c_api(version, signatures, files, tmp_path):
    """All signatures, batches of 0 to 33, in 8 threads at once."""
    files = [*files.values(), b"not an image"]
    files = [files[i % len(files)] for i in range(33)]
    rng = np.random.default_rng(0)
    inputs = {
        "serving_default": np.array(files, object),
        "features": np.array(files, object),
        "classify": np.array([example(file) for file in files], object),
        "images": rng.uniform(0, 255, (33, IMAGE_SIZE, IMAGE_SIZE, 3)).astype("f4"),
    }
    tensors, probes = {}, {}
    for name, definition in meta_graph(version).signature_def.items():
        if name in inputs:
            ((input_name, info),) = definition.inputs.items()
            outputs = {key: out.name for key, out in definition.outputs.items()}
            tensors[name] = {"input": info.name, "outputs": outputs}
            probes[f"{name}/input"] = inputs[name]
            answer = run_signature(signatures[name], **{input_name: inputs[name]})
            probes |= {f"{name}/{key}": value for key, value in answer.items()}
    (tmp_path / "tensors.json").write_text(json.dumps(tensors))
    stored = {key: verification.storable(value) for key, value in probes.items()}
    np.savez(tmp_path / "probes.npz", **stored)
    library = pathlib.Path(tf.__file__).parent / "libtensorflow_cc.so.2"
    finished = subprocess.run(
        [
            sys.executable,
            SUPPORT / "saved_model_c_api.py",
            library,
            version,
            tmp_path / "tensors.json",
            tmp_path / "probes.npz",
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert report["runs"] == 4 * 34
    assert report["largest"] < 1e-5
    assert report["imported"] == []


@pytest.mark.parametrize(
    "approximate_gelu, options",
    [(True, {"features": True}), (False, {"precision": "bfloat16"})],
    ids=["tanh", "erf"],
)
def test_export_saved_model_uses_ops_of_tensorflow_2_20(
    tmp_path, approximate_gelu, options
):
    model = random_model(approximate_gelu=approximate_gelu, classifier_activation=None)
    path = export.export_saved_model(model, tmp_path, **options)
    graph = meta_graph(path).graph_def
    ops = {node.op for node in graph.node}
    ops |= {
        node.op for function in graph.library.function for node in function.node_def
    }
    ops -= {function.signature.name for function in graph.library.function}
    assert ops <= set(OPS.split())
    attributes = {
        key
        for nodes in [graph.node, *(f.node_def for f in graph.library.function)]
        for node in nodes
        for key in node.attr
    }
    assert "_XlaMustCompile" not in attributes
