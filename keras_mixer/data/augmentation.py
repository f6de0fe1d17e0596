"""Random changes to training images, each a pure function of an image and a seed.

The pixel work is keras-cv's, and this is the only module that imports it. keras-cv
draws its random numbers from TensorFlow's stateful generators, so that what an image
becomes depends on all that was drawn before; a run that resumes at step 10,000 could
not repeat it. `_drawing_from` makes the same layers draw from a seed instead.
"""

import contextlib
import threading
import types

import keras
import tensorflow as tf

from keras_mixer.catalog import quick_imports


def crop_window(config, height, width, seed):
    """Draw the window of an inception crop.

    Args:
        config: An `Augmentation`.
        height: Height of the image in pixels, an int32 scalar tensor.
        width: Width of the image in pixels, an int32 scalar tensor.
        seed: Seed, an integer tensor of shape `(2,)`.

    Returns:
        `(top, left, height, width)` in pixels, an int32 tensor of shape `(4,)`.
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        [height, width, 3],
        tf.zeros((1, 0, 4)),
        seed,
        min_object_covered=0.0,
        area_range=(config.crop_scale, 1.0),
        aspect_ratio_range=(1 / config.crop_stretch, config.crop_stretch),
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)


def augment_image(config, image, seed):
    """Flip, shift, rotate and RandAugment one image, as `config` says.

    Args:
        config: An `Augmentation`.
        image: float32 pixels in [0, 255], `(height, width, 3)`.
        seed: Seed, an integer tensor of shape `(2,)`.

    Returns:
        float32 pixels in [0, 255], `(height, width, 3)`.
    """
    if config.flip:
        image = tf.image.stateless_random_flip_left_right(
            image, tf.random.fold_in(seed, 0)
        )
    layers = []
    with _drawing_from(seed):
        if config.shift:
            layers.append(
                _keras_cv().RandomTranslation(
                    config.shift, config.shift, fill_mode="nearest"
                )
            )
        if config.rotation:
            layers.append(
                _keras_cv().RandomRotation(config.rotation / 360, fill_mode="nearest")
            )
        if config.rand_augment_layers:
            layers.append(
                _keras_cv().RandAugment(
                    value_range=(0, 255),
                    augmentations_per_image=config.rand_augment_layers,
                    magnitude=config.rand_augment_magnitude / 30,
                )
            )
        for layer in layers:
            image = tf.ensure_shape(layer(image), image.shape)
    return tf.clip_by_value(image, 0.0, 255.0) if layers else image


def mix_batch(config, images, labels, seed):
    """Smooth the labels of a batch, and mix its examples by mixup or CutMix.

    Args:
        config: An `Augmentation`.
        images: float32 pixels in [0, 255], `(batch, height, width, 3)`.
        labels: float32 one-hot labels, `(batch, classes)`.
        seed: Seed, an integer tensor of shape `(2,)`.

    Returns:
        The images and labels, of the same shapes and types.
    """
    if config.label_smoothing:
        even = config.label_smoothing / labels.shape[-1]
        labels = labels * (1.0 - config.label_smoothing) + even
    if not (config.mixup or config.cutmix) or not config.mix_probability:
        return images, labels

    def mix(layer_name, alpha):
        def branch():
            # A fourth channel with the example's number tells where pixels came from.
            numbers = tf.range(tf.shape(images)[0], dtype=tf.float32)
            own = tf.zeros_like(images[..., :1]) + numbers[:, None, None, None]
            with _drawing_from(seed):
                layer = getattr(_keras_cv(), layer_name)(alpha=alpha)
                mixed = layer(
                    {"images": tf.concat([images, own], -1), "labels": labels}
                )
            pixels = tf.ensure_shape(mixed["images"][..., :3], images.shape)
            mixed_labels = mixed["labels"]
            if layer_name == "CutMix":
                # keras-cv counts a patch that sticks out of the image at its whole
                # size; the label is to follow the pixels.
                pasted = mixed["images"][..., 3] != own[..., 0]
                share = tf.reduce_mean(tf.cast(pasted, tf.float32), (1, 2))[:, None]
                partner = tf.reduce_max(
                    tf.where(pasted, mixed["images"][..., 3], 0.0), (1, 2)
                )
                others = tf.gather(labels, tf.cast(tf.round(partner), tf.int32))
                mixed_labels = labels * (1.0 - share) + others * share
            return pixels, tf.ensure_shape(mixed_labels, labels.shape)

        return branch

    branches = []
    if config.mixup:
        branches.append(mix("MixUp", config.mixup))
    if config.cutmix:
        branches.append(mix("CutMix", config.cutmix))
    draw = tf.random.stateless_uniform((), tf.random.fold_in(seed, 0))
    share = config.mix_probability / len(branches)
    branches.append(lambda: (images, labels))
    index = tf.minimum(tf.cast(draw / share, tf.int32), len(branches) - 1)
    return tf.switch_case(index, branches)


def _keras_cv():
    try:
        with quick_imports("torch"):
            import keras_cv
    except ImportError as error:
        raise ValueError(
            "This augmentation needs keras-cv. Install it with "
            f"`pip install keras-mixer[train]`. Received: {error}."
        ) from error
    return keras_cv.layers


_lock = threading.Lock()


@contextlib.contextmanager
def _drawing_from(seed):
    """Let keras-cv layers made and called inside draw from `seed` alone.

    Each draw folds its number into the seed. The replacement lasts while a graph is
    traced; what stays in the graph are TensorFlow's stateless random operations. Also
    holds the layers to float32 under a mixed-precision policy, since bfloat16 has too
    few digits for pixels.
    """
    draws = 0

    def key():
        nonlocal draws
        draws += 1
        return tf.random.fold_in(seed, draws)

    # The arguments are those of the functions replaced; `seed` there is an
    # operation's own, which the key makes superfluous.
    def uniform(shape, minval=0, maxval=None, dtype=tf.float32, seed=None, name=None):
        if maxval is None:
            maxval = 1
        return tf.random.stateless_uniform(shape, key(), minval, maxval, dtype)

    def normal(shape, mean=0.0, stddev=1.0, dtype=tf.float32, seed=None, name=None):
        return tf.random.stateless_normal(shape, key(), mean, stddev, dtype)

    def gamma(shape, alpha, beta=None, dtype=tf.float32, seed=None, name=None):
        return tf.random.stateless_gamma(shape, key(), alpha, beta, dtype)

    def shuffle(value, seed=None, name=None):
        return tf.random.experimental.stateless_shuffle(value, key())

    generator = types.SimpleNamespace(uniform=uniform, normal=normal)
    replacements = {
        "uniform": uniform,
        "normal": normal,
        "gamma": gamma,
        "shuffle": shuffle,
        "get_global_generator": lambda: generator,
    }
    with _lock:
        originals = {name: getattr(tf.random, name) for name in replacements}
        policy = keras.config.dtype_policy()
        try:
            keras.config.set_dtype_policy("float32")
            for name, replacement in replacements.items():
                setattr(tf.random, name, replacement)
            yield
        finally:
            for name, original in originals.items():
                setattr(tf.random, name, original)
            keras.config.set_dtype_policy(policy)
