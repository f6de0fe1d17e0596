"""The card of a model that is pushed: what it is, what it learnt, how well it does."""

import json
import pathlib

# Of a run's configuration: what is said elsewhere, or is nobody's business.
_LEFT_OUT = ("dataset", "data_dir", "data_service")
_FIGURES = [
    ("top-1", "test_accuracy", "{:.2%}"),
    ("top-5", "test_top5_accuracy", "{:.2%}"),
    ("loss", "test_loss", "{:.4f}"),
    ("test images", "test_examples", "{:,}"),
    ("training images", "train_examples", "{:,}"),
    ("steps", "steps", "{:,}"),
    ("seconds of training", "train_seconds", "{:,}"),
]


def read_report(model):
    """What `report.json` in the folder of a training run says; {} without one.

    Args:
        model: The folder, or a file in it.

    Raises:
        ValueError: If it is damaged.
    """
    path = pathlib.Path(model)
    path = (path if path.is_dir() else path.parent) / "report.json"
    if not path.is_file():
        return {}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        report = None
    if not isinstance(report, dict) or not isinstance(report.get("config"), dict):
        raise ValueError(
            "A report must be as a training run left it. Received: another text in "
            f"{path}. Remove it, and the card goes without."
        )
    return report


def write_card(repository, code, facts, report, entry, licence, picture):
    """The text of the card, README.md.

    Args:
        repository: `org/name`.
        code: How to load the model, in Python.
        facts: Lines about the model.
        report: What `read_report` returns.
        entry: The `catalog.WeightsEntry` that was pushed, or None.
        licence: As the hub names it, or None.
        picture: Name of the picture.
    """
    from huggingface_hub import EvalResult, ModelCardData

    title = repository.split("/")[1]
    dataset = _without_folders(report.get("dataset", ""))
    measured = {
        label: (report[key], shown.format(report[key]))
        for label, key, shown in _FIGURES
        if isinstance(report.get(key), int | float)
    }
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="test",
            metric_type="accuracy",
            metric_name=label,
            metric_value=measured[label][0],
        )
        for label in ("top-1", "top-5")
        if label in measured
    ]
    data = ModelCardData(
        license=licence,
        library_name="keras_mixer",
        tags=["mlp-mixer", "keras", "image-classification"],
        pipeline_tag="image-classification",
        model_name=title,
        eval_results=results or None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {title}",
        "An MLP-Mixer ([arXiv 2105.01601](https://arxiv.org/abs/2105.01601)), by "
        "keras_mixer.",
        f"```python\n{code}\n```",
        "\n".join(f"- {fact}" for fact in facts),
        f"![Weights of the first blocks' token-mixing units]({picture})",
    ]
    if entry is not None:
        parts += ["## Data", f"Trained by {entry.provenance}."]
        if entry.top1:
            parts.append(
                f"{entry.top1:.2f} % top-1 on {entry.accuracy_dataset}, as published "
                f"({entry.accuracy_source})."
            )
    if report:
        rows = [f"| {label} | {text} |" for label, (_, text) in measured.items()]
        recipe = {
            name: _without_folders(value)
            for name, value in report["config"].items()
            if value is not None and name not in _LEFT_OUT
        }
        parts += [
            "## Figures",
            f"On the test split of `{dataset}`, as the run's report.json has them:",
            "\n".join(["| | |", "|---|---:|", *rows]),
            "## Recipe",
            f"```json\n{json.dumps(recipe, indent=2)}\n```",
        ]
    return "\n\n".join(parts) + "\n"


def _without_folders(value):
    """A value in which a path is its last part: the rest is the machine's own."""
    if not isinstance(value, str) or value.startswith("hf://"):
        return value
    kind, _, path = value.rpartition(":")
    return f"{kind}:{pathlib.Path(path).name}" if kind else pathlib.Path(value).name
