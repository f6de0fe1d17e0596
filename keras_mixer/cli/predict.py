"""Label images with a Mixer: a few, or a collection of any size.

    keras-mixer predict cat.jpg photos/
    keras-mixer predict scan.png --model=runs/digits/model.keras --json
    keras-mixer predict photos/ 'shards/*.tar' --output=answers.parquet
    keras-mixer predict s3://bucket/photos --output=answers/

An argument is a file, a folder (its images, and those of the folders in it), a pattern
in quotes, a `.tar`, `.parquet` or `.tfrecord` file of images, or a URL that fsspec
opens, of any of these. `-` reads paths from standard input, one a line.

The table has one line a guess, best first. An image that cannot be read is named on
standard error, and in JSON has "error" in the place of "predictions"; the others are
labelled all the same, and the exit status is 1.

--output writes a table with the columns path, valid, reason, classes, labels and
scores: one file, or numbered files in a folder. The same command goes on with a folder
where it was stopped. What cannot be read is a row with its reason there, and the exit
status is 0 if anything could be labelled.
"""

import json
import pathlib
import sys

from absl import flags

from keras_mixer import cli
from keras_mixer.cli import _flags
from keras_mixer.cli._watch import Watch

ARGUMENTS = "IMAGE..."
MODEL = flags.DEFINE_string(
    "model",
    "MlpMixerB16",
    "A named model, such as MlpMixerB16; a .keras file or a run's folder; a repository "
    "of the Hugging Face Hub, hf://org/repo@revision; what `export` wrote: an .onnx, "
    ".xml or .tflite file, or a SavedModel's folder; or the URL of a model on a "
    "server, http:// or grpc://.",
)
WEIGHTS = _flags.define_weights(" Without it: imagenet." + _flags.PREPARES)
LABELS = _flags.define_labels()
TOP_K = flags.DEFINE_integer("top_k", 5, "How many guesses of an image.", lower_bound=1)
FEATURES = flags.DEFINE_bool(
    "features", False, "Give the pooled embedding, too; with --output."
)
PRECISION = flags.DEFINE_enum(
    "precision", "float32", ["float32", "bfloat16"], "Of the matrix products."
)
COLUMN = flags.DEFINE_string(
    "column",
    None,
    "Column of Parquet files, or feature of TFRecord files, with the images. Without "
    "it: found by its name.",
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images at a time.", lower_bound=1)
WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Threads that read and decode. Without it: one for each processor.",
    lower_bound=1,
)
JSON = _flags.define_json()
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "A file that ends in .parquet, .jsonl or .csv, or a folder for many of them.",
)
FORMAT = flags.DEFINE_enum(
    "format", "parquet", ["parquet", "jsonl", "csv"], "Of the files in a folder."
)
SHARD_SIZE = flags.DEFINE_integer(
    "shard_size", 10_000, "Images in a file of a folder.", lower_bound=1
)
CLUSTER = flags.DEFINE_string(
    "cluster",
    None,
    "Ray cluster that labels, with --output=FOLDER: auto for the one that this machine "
    "belongs to, or HOST:PORT.",
)
REPLICAS = flags.DEFINE_integer(
    "replicas",
    None,
    "Models in the cluster. Without it: one for each GPU, or for each machine.",
    lower_bound=1,
)


def main(argv):
    """Print or write the most probable classes of the images named in `argv`."""
    if len(argv) == 1:
        raise ValueError(
            "predict takes at least one image: keras-mixer predict IMAGE... "
            "Received: none."
        )
    if FEATURES.value and OUTPUT.value is None:
        raise ValueError(
            "Features go to a file. Received: --features without --output."
        )
    from keras_mixer.data.collections import Collection
    from keras_mixer.serving import bulk, open_predictor

    # Nothing that takes long before what is said is known to fit.
    if CLUSTER.value is None and REPLICAS.value is not None:
        raise ValueError(
            "Replicas are in a cluster. Received: --replicas without --cluster."
        )
    collection = Collection(argv[1:], COLUMN.value)
    suffix = pathlib.Path(OUTPUT.value or "").suffix[1:]
    is_file = suffix in bulk.FORMATS
    layout = OUTPUT.value and bulk.Layout(
        suffix if is_file else FORMAT.value, TOP_K.value, FEATURES.value
    )
    reading = {"batch_size": BATCH_SIZE.value, "workers": WORKERS.value}
    model = {
        "model": MODEL.value,
        "weights": WEIGHTS.value,
        "labels": LABELS.value,
        "top_k": TOP_K.value,
        "features": FEATURES.value,
        "precision": PRECISION.value,
    }
    if CLUSTER.value is not None:
        if layout is None or is_file:
            raise ValueError(
                "A cluster writes to a folder: --output=FOLDER. Received: "
                f"--output={OUTPUT.value}."
            )
        from keras_mixer.serving import cluster

        cluster.connect(CLUSTER.value)

        def label_slices(slices, watch):
            labelled = cluster.label_slices(
                slices, layout, replicas=REPLICAS.value, **reading, **model
            )
            for number, shard in labelled:
                watch.add(shard)
                yield number, shard

        return _write_folder(collection, label_slices, layout)

    predictor = open_predictor(**model)

    def label(records):
        return bulk.label(predictor, records, **reading)

    if layout is None:
        return _print(collection, label)
    if is_file:
        return _write_file(collection, label, layout)

    def label_each(slices, watch):
        for number, records in slices:
            answers = watch.over(label(records))
            yield number, bulk.LabelledShard.of(answers, layout)

    return _write_folder(collection, label_each, layout)


def _print(collection, label):
    with _watch(collection) as watch:
        for number, (name, answer) in enumerate(watch.over(label(collection))):
            if answer.error is not None:
                watch.say(f"keras-mixer: {name}: {answer.error}")
            if JSON.value:
                text = json.dumps(cli.as_json(name, answer), indent=2)
                print("," if number else "[", *text.splitlines(), sep="\n  ", end="")
            elif answer.error is None:
                print(name)
                for _, label_of, score in answer.guesses:
                    print(f"  {score:7.2%}  {label_of}")
    if JSON.value:
        print("\n]")
    return 1 if watch.failed else 0


def _write_file(collection, label, layout):
    from keras_mixer.serving import bulk

    with _watch(collection) as watch:
        bulk.write_table(OUTPUT.value, watch.over(label(collection)), layout)
    return _tell(watch.rows, watch.failed, watch.failures)


def _write_folder(collection, label_slices, layout):
    from keras_mixer.serving import bulk

    settings = {
        "model": bulk.model_identity(MODEL.value, WEIGHTS.value, LABELS.value),
        "precision": PRECISION.value,
        "column": COLUMN.value,
        "batch_size": BATCH_SIZE.value,
    }
    with (
        bulk.Shards(OUTPUT.value, settings, layout, SHARD_SIZE.value) as shards,
        _watch(collection, shards.rows) as watch,
    ):
        if shards.rows:
            watch.say(f"{shards.rows:,} images are done: going on.")
        try:
            for number, shard in label_slices(shards.pending(collection), watch):
                with watch.undisturbed():
                    shards.write(number, shard)
        except KeyboardInterrupt:
            watch.say(
                f"Stopped after {shards.rows:,} images: the same command goes on."
            )
            raise
        with watch.undisturbed():
            shards.finish()
    return _tell(shards.rows, shards.failed, watch.failures)


def _watch(collection, done=0):
    is_shown = sys.stderr.isatty() and (OUTPUT.value or not sys.stdout.isatty())
    return Watch(collection, is_shown, done)


def _tell(rows, failed, failures):
    """Say what was written; the status is 0 if anything could be labelled."""
    for name, reason in failures:
        print(f"keras-mixer: {name}: {reason}", file=sys.stderr)
    if failures and len(failures) < failed:
        print(f"  and {failed - len(failures):,} more", file=sys.stderr)
    without = f", {failed:,} of them unreadable" if failed else ""
    noun = "image" if rows == 1 else "images"
    print(f"Wrote {OUTPUT.value}: {rows:,} {noun}{without}.")
    return 1 if failed == rows else 0
