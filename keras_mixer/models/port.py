"""The model that a weights file was made for."""

import keras

from keras_mixer.catalog.checks import check_choice
from keras_mixer.models import mixer
from keras_mixer.weights import check_fit, fill_model, open_file, tensor_shapes


def port(path, model=None):
    """Build the model that a weights file was made for, and fill it.

    Args:
        path: A weights file, as `MlpMixer(weights=...)` takes it.
        model: Name of the model it has to be, or None for what the file's shapes say.

    Returns:
        A pair: the model, which ends in its logits (in its pooled features, for a file
        without a head), and the `weights.Report`.

    Raises:
        ValueError: If there is no such model, or the file does not fit it.
    """
    source = open_file(path)
    if model is None:
        *sizes, image_size = source.sizes()
    else:
        check_choice("model", model, mixer.VARIANTS)
        variant = mixer.VARIANTS[model]
        sizes, image_size = variant.sizes, variant.image_size
    name = model or "mlp_mixer"
    patches = (image_size // sizes[-1]) ** 2
    check_fit(source, tensor_shapes(sizes, patches, source.classes), name)
    built = mixer.build(
        *sizes,
        images=keras.Input((image_size, image_size, 3), name="images"),
        transform=source.transform,
        pooling="avg",
        classes=source.classes,
        classifier_activation=None,
        approximate_gelu=source.approximate_gelu,
        name=name,
        kernel_initializer="zeros",
    )
    return built, fill_model(built, source)
