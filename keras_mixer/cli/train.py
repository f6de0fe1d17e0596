"""Train or fine-tune a Mixer, or go on where a run stopped.

    keras-mixer train --dataset=digits --output_dir=runs/digits
    keras-mixer train --model=MlpMixerB16 --weights=imagenet --dataset=tf_flowers \\
        --precision=mixed_bfloat16 --output_dir=runs/flowers
    keras-mixer train --model=runs/flowers --dataset=folder:roses \\
        --output_dir=runs/roses
    keras-mixer train --recipe=paper_cifar10 --output_dir=runs/paper
    keras-mixer train --recipe=cifar10_nano --dataset=folder:cifar10 \\
        --output_dir=runs/cifar10
    keras-mixer train --config=runs/cifar10/config.json --output_dir=runs/again

A recipe or a configuration sets every field; flags override single ones. The folder
of the run gets model.keras and labels.txt (what `predict`, `evaluate` and the export
take), report.json, config.json, history.csv, tensorboard/, and three pictures:
curves.png, predictions.png, confusion_matrix.png. The same command resumes a run that
was interrupted; after SIGTERM, which saves first, the exit status is 75.
"""

import dataclasses
import pathlib
import sys

from absl import flags

from keras_mixer import cli
from keras_mixer.catalog import (
    RECIPES,
    VARIANTS,
    Augmentation,
    TrainConfig,
    default_recipe,
)
from keras_mixer.cli import _flags

ARGUMENTS = ""
RECIPE = flags.DEFINE_enum(
    "recipe",
    None,
    sorted(RECIPES),
    "What the settings start from. Without it: digits for that data set, finetune "
    "from trained weights, scratch otherwise.",
)
CONFIG = flags.DEFINE_string(
    "config", None, "A config.json of another run to start from, instead of a recipe."
)
OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder of the run.")
PREVIEW = flags.DEFINE_string(
    "preview",
    None,
    "Write a sheet of augmented training images to this PNG file, and do not train.",
)


def _help(field):
    """Say what a setting is, and what it is by default and in the recipes."""
    said = [f"{field.metadata['help']} Default: {field.default}"]
    for name, recipe in RECIPES.items():
        value = getattr(recipe, field.name)
        if value != field.default:
            said.append(f"{name}: {value}")
    return "; ".join(said) + "."


# The model and the data before the augmentation.
_SETTINGS = sorted(
    dataclasses.fields(TrainConfig),
    key=lambda field: hasattr(Augmentation, field.name),
)
given_settings = _flags.define_settings(_SETTINGS, _help)


def main(argv):
    """Train as the flags say."""
    if len(argv) > 1:
        raise ValueError(
            f"train takes flags only, as --dataset=digits. Received: {argv[1:]}."
        )
    config = _config()
    if PREVIEW.value:
        _write_preview(config, PREVIEW.value)
        return 0
    if not OUTPUT_DIR.value:
        raise ValueError(
            "The run needs a folder: --output_dir=runs/NAME. Received: none."
        )
    with cli.lasting_imports():
        from keras_mixer import training

    try:
        done = training.train(config, OUTPUT_DIR.value)
    except training.Preempted as preempted:
        print(f"keras-mixer: {preempted}", file=sys.stderr)
        return _flags.RESUME_ME
    if done is not None:
        _write_pictures(done, pathlib.Path(OUTPUT_DIR.value))
        _print_report(done.report)
    return 0


def _config():
    settings = given_settings()
    starts_trained = settings.get("weights") is not None
    if "model" in settings and settings["model"] not in VARIANTS:
        starts_trained = True
        settings.setdefault("weights", None)  # the file's own, whatever a recipe has
    if "epochs" in settings:
        # Where a recipe counts in steps, the flag has the last word.
        settings.setdefault("steps", 0)
    if CONFIG.value:
        if RECIPE.value:
            raise ValueError(
                "Either --recipe or --config sets what the run starts from. Received "
                f"both: --recipe={RECIPE.value}, --config={CONFIG.value}."
            )
        text = pathlib.Path(CONFIG.value).read_text(encoding="utf-8")
        return TrainConfig.from_json(text, **settings)
    name = RECIPE.value or default_recipe(settings.get("dataset"), starts_trained)
    recipe = RECIPES[name]
    if "dataset" not in settings and name != "digits" and recipe.dataset == "digits":
        raise ValueError(
            f"The recipe {name} needs a data set, as --dataset=folder:PATH. "
            "Received: none."
        )
    return dataclasses.replace(recipe, **settings)


def _write_preview(config, path):
    from keras_mixer import training, visualize

    images, labels, class_names = training.preview(config, count=32)
    captions = [
        "\n".join(
            f"{class_names[n]} {label[n]:.0%}"
            for n in label.argsort()[::-1][:2]
            if label[n] > 0.02
        )
        for label in labels
    ]
    figure = visualize.plot_images(
        images, captions, title=f"{config.dataset}, as training sees it"
    )
    visualize.save_figure(figure, path)
    print(f"Wrote {path}.")


def _write_pictures(run, folder):
    from keras_mixer import visualize

    names, evaluation = run.source.class_names, run.evaluation
    where = f"{run.model.name} on {run.source.name}"
    settings = run.report["config"]
    blurs = ("label_smoothing", "mixup", "cutmix")
    figures = {
        "curves": visualize.plot_curves(
            run.history,
            title=where,
            smoothed=any(settings[name] for name in blurs),
        ),
        "predictions": visualize.plot_evaluation(evaluation, names, title=where),
        "confusion_matrix": visualize.plot_confusion(
            evaluation.labels,
            evaluation.predictions,
            names,
            title=f"{where}, test images",
        ),
    }
    for picture, figure in figures.items():
        visualize.save_figure(figure, folder / f"{picture}.png")


def _print_report(report):
    print(
        f"Test accuracy {report['test_accuracy']:.2%} on "
        f"{report['test_examples']} images, by the weights of epoch "
        f"{report['kept_epoch']}; trained in {report['train_seconds']:.0f} s."
    )
    print(f"Everything is in {OUTPUT_DIR.value}: model.keras, report.json, curves.png.")
