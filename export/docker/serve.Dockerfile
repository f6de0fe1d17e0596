# The development server, with its page. From the root of a checkout:
#
#   docker build --file export/docker/serve.Dockerfile --tag mixer-serve .
#   docker run --rm --publish=127.0.0.1:8501:8501 --publish=127.0.0.1:8500:8500 \
#       --volume="$PWD/models/mixer:/models/mixer:ro" mixer-serve
#
# It has neither TLS nor accounts: for anyone but you it is TensorFlow Serving, as
# export/tf_serving/compose.yaml starts it.
FROM python:3.11-slim-bookworm

WORKDIR /src
COPY setup.py pyproject.toml README.md LICENSE ./
COPY keras_mixer keras_mixer
# The versions are setup.py's ranges.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".[serve]"

WORKDIR /tmp
ENV HOME=/tmp \
    KERAS_BACKEND=tensorflow
USER 1000
EXPOSE 8500 8501
# Ready is when a version answers.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/v1/models/mixer')"]
# The container's own network; `docker run --publish` says who else may ask.
CMD ["keras-mixer", "serve", "/models/mixer", "--host=0.0.0.0"]
