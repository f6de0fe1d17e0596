"""Counters and histograms for Prometheus, under TensorFlow Serving's names."""

import bisect
import collections
import threading

# Microseconds: from 10, by factors of 1.8, to about 20 minutes, as the server has them.
_LATENCY_BOUNDS = [10 * 1.8**i for i in range(32)]
_BATCH_BOUNDS = [2**i for i in range(11)]

_HELP = {
    ":tensorflow:serving:request_count": "The total number of requests.",
    ":tensorflow:serving:request_latency": (
        "Distribution of wall time (in microseconds) for a request."
    ),
    ":tensorflow:serving:batching_session:processed_batch_size": (
        "Distribution of the number of items that ran as one batch."
    ),
    ":tensorflow:cc:saved_model:load_attempt_count": (
        "The number of times a SavedModel was loaded, by outcome."
    ),
}


class Metrics:
    """What a server counts. Safe to use from several threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counters = collections.Counter()
        self._histograms = {}

    def request(self, model_name, status, api, entrypoint, seconds):
        """Count a request.

        Args:
            model_name: Name of the model, or an empty string if the request had none.
            status: Name of the gRPC status code.
            api: `"predict"` or `"classify"`.
            entrypoint: `"REST"` or `"GRPC"`.
            seconds: How long it took.
        """
        self._count(
            ":tensorflow:serving:request_count", model_name=model_name, status=status
        )
        self._observe(
            ":tensorflow:serving:request_latency",
            _LATENCY_BOUNDS,
            seconds * 1e6,
            model_name=model_name,
            API=api,
            entrypoint=entrypoint,
        )

    def batch(self, model_name, size):
        """Count a batch that ran."""
        self._observe(
            ":tensorflow:serving:batching_session:processed_batch_size",
            _BATCH_BOUNDS,
            size,
            model_name=model_name,
        )

    def load(self, model_name, status):
        """Count an attempt to load a version: `status` is `"success"` or `"fail"`."""
        self._count(
            ":tensorflow:cc:saved_model:load_attempt_count",
            model_path=model_name,
            status=status,
        )

    def page(self):
        """Return all metrics as the text that Prometheus reads."""
        lines = []
        with self._lock:
            for name, text in _HELP.items():
                counters = {k: n for k, n in self._counters.items() if k[0] == name}
                histograms = {k: h for k, h in self._histograms.items() if k[0] == name}
                if not counters and not histograms:
                    continue
                kind = "counter" if counters else "histogram"
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
                for (_, labels), count in sorted(counters.items()):
                    lines.append(f"{name}{{{_text(labels)}}} {count}")
                for (_, labels), histogram in sorted(histograms.items()):
                    lines += histogram.lines(name, _text(labels))
        return "\n".join(lines) + "\n"

    def _count(self, name, **labels):
        with self._lock:
            self._counters[name, tuple(labels.items())] += 1

    def _observe(self, name, bounds, value, **labels):
        key = name, tuple(labels.items())
        with self._lock:
            if key not in self._histograms:
                self._histograms[key] = _Histogram(bounds)
            self._histograms[key].observe(value)


class _Histogram:
    def __init__(self, bounds):
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value):
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name, labels):
        lines, cumulative = [], 0
        bounds = [f"{bound:g}" for bound in self._bounds] + ["+Inf"]
        for bound, count in zip(bounds, self._counts, strict=True):
            cumulative += count
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {cumulative}')
        lines.append(f"{name}_sum{{{labels}}} {self._sum:g}")
        lines.append(f"{name}_count{{{labels}}} {cumulative}")
        return lines


def _text(labels):
    def escaped(value):
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return ",".join(f'{name}="{escaped(value)}"' for name, value in labels)
