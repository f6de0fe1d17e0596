"""The settings under which TensorFlow is fastest on the processor at hand.

They are environment variables, since TensorFlow takes them so: TF_ENABLE_ONEDNN_OPTS
when it is imported, TF_ONEDNN_ASSUME_FROZEN_WEIGHTS when a model runs first.
"""

import os
import pathlib

_CPUINFO = pathlib.Path("/proc/cpuinfo")

# What decides how a product is computed: in Linux' words, and in ours.
_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "avx512_fp16": "AVX512-FP16",
    "amx_bf16": "AMX-BF16",
}


def cpu_features():
    """Say which vector instructions the processor has.

    Returns:
        A tuple of names, as `("AVX2", "AVX512")`; empty where Linux does not tell.
    """
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return tuple(name for flag, name in _FEATURES.items() if flag in flags)


def fastest_settings(serves=False):
    """Choose TensorFlow's settings for this processor.

    Args:
        serves: Whether the process only answers by models, whose weights stand still:
            with AVX512 oneDNN then packs them once. One that trains would go on with
            the first. With AVX2 alone packed weights are slower: see `settings` in
            benchmarks/RESULTS.md.

    Returns:
        A dict of environment variables, less those that are set already.
    """
    chosen = {}
    features = cpu_features()
    # TensorFlow leaves oneDNN off on a processor with AVX2 or AVX512 alone.
    if "AVX2" in features:
        chosen["TF_ENABLE_ONEDNN_OPTS"] = "1"
    if serves and "AVX512" in features:
        chosen["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] = "1"
    return {name: value for name, value in chosen.items() if name not in os.environ}


def use_fastest_settings(serves=False):
    """Put `fastest_settings` into the environment of this process."""
    os.environ.update(fastest_settings(serves))


def settings_in_use():
    """Return a line for the log: the processor, and the settings that hold."""
    names = ("TF_ENABLE_ONEDNN_OPTS", "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS")
    held = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    features = ", ".join(cpu_features()) or "no vector instructions that it tells of"
    return f"CPU with {features}. {' '.join(held) or 'TensorFlow has its defaults'}."
