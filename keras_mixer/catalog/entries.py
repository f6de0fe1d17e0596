"""Every published MLP-Mixer checkpoint, one frozen entry each."""

import dataclasses

PASSL = "https://passl.bj.bcebos.com/vision_transformers/mlp_mixer"
GOOGLE = "https://storage.googleapis.com/mixer_models"
TIMM = "https://huggingface.co/timm"

# The lists of classes in assets/ that a number of classes stands for.
CLASS_LISTS = {
    1000: "imagenet_classes.txt",
    21843: "imagenet21k_classes.txt",
    11221: "imagenet21k_miil_classes.txt",
}


@dataclasses.dataclass(frozen=True)
class ImageTransform:
    """The evaluation transform that a set of weights was trained for.

    Attributes:
        mean: Mean of each channel, of pixels scaled to [0, 1].
        std: Standard deviation of each channel, of pixels scaled to [0, 1].
        interpolation: `"bicubic"` or `"bilinear"`, for resizing before the crop.
        crop_ratio: Side of the centre crop over the short side of the resized image.
    """

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    crop_ratio: float = 0.875


HALF = ImageTransform()
MIIL = ImageTransform(
    mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear"
)


@dataclasses.dataclass(frozen=True)
class WeightsEntry:
    """One published set of weights.

    No publisher states a digest. A first download is checked by its structure, and a
    later one held to the digest of the first.

    Attributes:
        model: Name of the model in this package.
        tag: What `weights=` takes.
        url: Where the file was published, or None for weights that come with this
            package, in `assets/`.
        format: `"pdparams"`, `"npz"`, `"safetensors"`, or `"weights.h5"` for those.
        classes: Number of classes of the head.
        transform: The evaluation transform.
        approximate_gelu: Whether it was trained with the tanh form of GELU.
        provenance: Who trained it, on what.
        licence: For timm's files what timm states of them; for PASSL's and Google's
            that of the project that published them, neither of which states one of
            the weights' own. Check before you rely on it.
        labels: Name of the list of classes in `assets/`.
        top1: Published top-1 accuracy in percent, or None.
        top5: Published top-5 accuracy in percent, or None.
        real: Published top-1 accuracy on ImageNet's ReaL labels in percent, or None.
        accuracy_dataset: What the accuracy was measured on, as `--dataset` names it.
        accuracy_source: Where the accuracy was published.
        fallback: Tag of the same weights from a second publisher, or None.
    """

    model: str
    tag: str
    url: str | None
    format: str
    classes: int
    transform: ImageTransform
    approximate_gelu: bool
    provenance: str
    licence: str
    labels: str
    top1: float | None = None
    top5: float | None = None
    real: float | None = None
    accuracy_dataset: str = "imagenet2012"
    accuracy_source: str | None = None
    fallback: str | None = None


def _passl(model, file, top1, top5):
    return WeightsEntry(
        model,
        "imagenet",
        f"{PASSL}/{file}.pdparams",
        "pdparams",
        classes=1000,
        # Inferred. PASSL's training YAML says ImageNet's mean and std, but was changed
        # to that after these weights were published; its accuracies are timm's to 0.02
        # points, and timm normalises by 0.5. `keras-mixer evaluate` settles it.
        transform=HALF,
        approximate_gelu=False,
        provenance="Google's ImageNet-1k training from scratch, converted by PASSL",
        licence="Apache-2.0",
        labels=CLASS_LISTS[1000],
        top1=top1,
        top5=top5,
        accuracy_source="PASSL README",
        fallback="imagenet_timm",
    )


def _google(model, tag, path, provenance, classes=1000, top1=None, source=None):
    return WeightsEntry(
        model,
        tag,
        f"{GOOGLE}/{path}.npz",
        "npz",
        classes=classes,
        transform=HALF,
        approximate_gelu=True,  # flax.linen.gelu's default
        provenance=provenance,
        licence="Apache-2.0",
        labels=CLASS_LISTS[classes],
        top1=top1,
        accuracy_source=source,
    )


def _timm(
    model,
    tag,
    name,
    provenance,
    transform,
    classes=1000,
    top1=None,
    top5=None,
    real=None,
):
    return WeightsEntry(
        model,
        tag,
        f"{TIMM}/{name}/resolve/main/model.safetensors",
        "safetensors",
        classes=classes,
        transform=transform,
        approximate_gelu=False,
        provenance=provenance,
        licence="Apache-2.0",
        labels=CLASS_LISTS[classes],
        top1=top1,
        top5=top5,
        real=real,  # timm results-imagenet-real.csv
        accuracy_source="timm results-imagenet.csv" if top1 else None,
    )


PAPER = "arXiv 2105.01601"
# The paper's authors say in timm pull request 651 that what timm tags
# goog_in21k_ft_in1k was trained on ImageNet-1k from scratch; the accuracies agree.
SCRATCH = "Google, ImageNet-1k from scratch"

_ENTRIES = [
    _passl("MlpMixerB16", "mlp-mixer_b16_224", 76.60, 92.23),
    _passl("MlpMixerL16", "mlp-mixer_l16_224", 72.06, 87.67),
    *[
        entry
        for size, i1k_top1 in [("B", 76.44), ("L", 71.76)]
        for entry in [
            _google(
                f"MlpMixer{size}16",
                "imagenet_google",
                f"imagenet1k/Mixer-{size}_16",
                SCRATCH,
                top1=i1k_top1,
                source=PAPER,
            ),
            _google(
                f"MlpMixer{size}16",
                "imagenet21k",
                f"imagenet21k/Mixer-{size}_16",
                "Google, ImageNet-21k",
                classes=21843,
            ),
        ]
    ],
    *[
        _google(
            f"MlpMixerB{patch}",
            "imagenet_sam",
            f"sam/Mixer-B_{patch}",
            "Google, ImageNet-1k from scratch with sharpness-aware minimisation",
            top1=top1,
            source="arXiv 2106.01548",
        )
        for patch, top1 in [(16, 77.36), (32, 72.47)]
    ],
    *[
        _google(
            f"MlpMixer{size}{patch}",
            "imagenet_gsam",
            f"gsam/Mixer-{size}_{patch}",
            "Google, ImageNet-1k from scratch with surrogate-gap SAM",
        )
        for size, patch in [("S", 8), ("S", 16), ("S", 32), ("B", 16), ("B", 32)]
    ],
    _timm(
        "MlpMixerB16",
        "imagenet_miil",
        "mixer_b16_224.miil_in21k_ft_in1k",
        "Alibaba MIIL, ImageNet-21k-P, fine-tuned on ImageNet-1k",
        MIIL,
        top1=82.31,
        top5=95.71,
        real=87.23,
    ),
    _timm(
        "MlpMixerB16",
        "imagenet21k_miil",
        "mixer_b16_224.miil_in21k",
        "Alibaba MIIL, ImageNet-21k-P",
        MIIL,
        classes=11221,
    ),
    _timm(
        "MlpMixerB16",
        "imagenet_timm",
        "mixer_b16_224.goog_in21k_ft_in1k",
        f"{SCRATCH}, converted by timm",
        HALF,
        top1=76.62,
        top5=92.25,
        real=82.01,
    ),
    _timm(
        "MlpMixerL16",
        "imagenet_timm",
        "mixer_l16_224.goog_in21k_ft_in1k",
        f"{SCRATCH}, converted by timm",
        HALF,
        top1=72.08,
        top5=87.63,
        real=77.31,
    ),
    *[
        _timm(
            f"MlpMixer{size}16",
            "imagenet21k_timm",
            f"mixer_{size.lower()}16_224.goog_in21k",
            "Google, ImageNet-21k, converted by timm",
            HALF,
            classes=21843,
        )
        for size in ("B", "L")
    ],
    WeightsEntry(
        "MlpMixerNano4",
        "cifar10",
        url=None,
        format="weights.h5",
        classes=10,
        # Images as small as the input are not cropped.
        transform=ImageTransform(crop_ratio=1.0),
        approximate_gelu=False,
        provenance="this package, CIFAR-10",
        licence="Apache-2.0",
        labels="cifar10_classes.txt",
        top1=88.88,
        top5=99.59,
        accuracy_dataset="cifar10",
        accuracy_source="keras_mixer/catalog/assets/MlpMixerNano4-cifar10.md",
    ),
]
ENTRIES = {(entry.model, entry.tag): entry for entry in _ENTRIES}
TAGS = tuple(dict.fromkeys(entry.tag for entry in _ENTRIES))


def list_weights(model: str | None = None) -> list[WeightsEntry]:
    """List the published weights.

    Args:
        model: Name of a model, such as `"MlpMixerB16"`, or None for all.

    Returns:
        A list of `WeightsEntry`.

    Raises:
        ValueError: If no model has that name.
    """
    models = dict.fromkeys(name for name, _ in ENTRIES)
    if model is not None and model not in models:
        raise ValueError(
            f"model must be one with published weights: {', '.join(models)}. "
            f"Received: {model!r}."
        )
    return [e for e in ENTRIES.values() if model in (None, e.model)]


def transform_of(tag: str) -> ImageTransform:
    """The `ImageTransform` of a tag, the same for every model that has it.

    Raises:
        ValueError: If there is no such tag.
    """
    return _entry_with(tag).transform


def labels_of(tag: str) -> str:
    """The name in `assets/` of a tag's list of classes, the same for every model.

    Raises:
        ValueError: If there is no such tag.
    """
    return _entry_with(tag).labels


def _entry_with(tag):
    for (_, entry_tag), entry in ENTRIES.items():
        if entry_tag == tag:
            return entry
    raise ValueError(f"weights must be one of {', '.join(TAGS)}. Received: {tag!r}.")
