# Training, on a GPU if there is one. From the root of a checkout:
#
#   mkdir -p runs
#   docker build --file export/docker/train.Dockerfile --tag mixer-train .
#   docker run --rm --gpus=all --user="$(id -u):$(id -g)" \
#       --volume="$PWD/runs:/mixer/runs" --volume="$PWD/flowers:/mixer/flowers:ro" \
#       mixer-train --dataset=folder:flowers --model=MlpMixerB16 --weights=imagenet \
#       --output_dir=runs/flowers
#
# A run that was stopped exits with status 75, and the same command resumes it.
FROM python:3.11-slim-bookworm

# CUDA comes with TensorFlow's own extra. `--build-arg CUDA=` leaves it out, for a
# processor alone.
ARG CUDA=[and-cuda]

WORKDIR /src
COPY setup.py pyproject.toml README.md LICENSE ./
COPY keras_mixer keras_mixer
# The versions are setup.py's ranges.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[train]" "tensorflow${CUDA}"

# Any user may run it. Weights and data sets are cached in /mixer/.keras and
# /mixer/tensorflow_datasets: mount a volume there to keep them.
WORKDIR /mixer
RUN chmod 1777 /mixer
ENV HOME=/mixer \
    KERAS_BACKEND=tensorflow \
    MPLCONFIGDIR=/tmp/matplotlib
USER 1000
ENTRYPOINT ["keras-mixer", "train"]
