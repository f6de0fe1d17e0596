"""What is known before Keras is there: what is published, recipes, the processor."""

from keras_mixer.catalog.checks import (
    check_choice,
    check_positive,
    check_range,
    needs_extra,
)
from keras_mixer.catalog.entries import (
    CLASS_LISTS,
    ENTRIES,
    HALF,
    MIIL,
    TAGS,
    ImageTransform,
    WeightsEntry,
    labels_of,
    list_weights,
    transform_of,
)
from keras_mixer.catalog.imports import (
    hook_tensorflow,
    import_keras,
    is_our_program,
    program_name,
    quick_imports,
    without_start_up_notes,
)
from keras_mixer.catalog.processor import (
    cpu_features,
    fastest_settings,
    settings_in_use,
    use_fastest_settings,
)
from keras_mixer.catalog.recipes import (
    PAPER_TRANSFER,
    PRECISIONS,
    RECIPES,
    STRATEGIES,
    Augmentation,
    TrainConfig,
    default_recipe,
)
from keras_mixer.catalog.variants import VARIANTS, Variant

__all__ = [
    "CLASS_LISTS",
    "ENTRIES",
    "HALF",
    "MIIL",
    "PAPER_TRANSFER",
    "PRECISIONS",
    "RECIPES",
    "STRATEGIES",
    "TAGS",
    "VARIANTS",
    "Augmentation",
    "ImageTransform",
    "TrainConfig",
    "Variant",
    "WeightsEntry",
    "check_choice",
    "check_positive",
    "check_range",
    "cpu_features",
    "default_recipe",
    "fastest_settings",
    "hook_tensorflow",
    "import_keras",
    "is_our_program",
    "labels_of",
    "list_weights",
    "needs_extra",
    "program_name",
    "quick_imports",
    "settings_in_use",
    "transform_of",
    "use_fastest_settings",
    "without_start_up_notes",
]
