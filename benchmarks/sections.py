"""The sections of the benchmark: what is measured, and of whom.

A section is a function from an `Arena` to rows, dicts that JSON can hold; `report`
knows how to show those of each.
"""

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time

import contender
import numpy as np
import PIL.Image
from arena import (
    HERE,
    PAUSE_SECONDS,
    PEERS,
    QUICK,
    TOLERANCE,
    TRAINED,
    Arena,
    ProductLimit,
    alternate,
    flop_of_image,
    infer_in_turns,
    is_measured,
    precisions,
    spread,
)


def inference(arena):
    arena.write()
    scale, rows = arena.scale, []
    for precision in precisions():
        contenders = [arena.ours("ours_inference.py", precision)]
        contenders += [arena.peer(name, precision) for name in PEERS]
        contenders = [one for one in contenders if one is not None]
        answers = {
            one.name: np.log(one.ask("probabilities", batch=min(4, scale.images)))
            for one in contenders
        }
        if precision == "float32":
            expected = answers["ours"]
            sizes = json.loads((arena.folder / "sizes.json").read_text())
            able = [one for one in contenders if one.name in ("ours", "torch")]
            limit = ProductLimit(able, sizes)
        rows += _differences(answers, expected, precision)
        for batch, (rounds, repeats) in scale.rounds.items():
            asked = [*contenders, *([limit] if precision == "float32" else [])]
            seconds = infer_in_turns(asked, batch, rounds, repeats)
            for name, values in seconds.items():
                row = {"precision": precision, "batch": batch, "contender": name}
                row |= {"images_per_second": spread(values, batch)}
                if name == limit.name:
                    row |= {"gflop_per_image": flop_of_image(sizes) / 1e9}
                elif batch == 1:
                    p50, p99 = np.percentile(values, [50, 99]) * 1e3
                    row |= {"p50_ms": p50, "p99_ms": p99}
                rows.append(row)
        for one in contenders:
            peak = one.ask("peak_bytes")
            rows.append(
                {"precision": precision, "contender": one.name, "peak_bytes": peak}
            )
            one.close()
    return rows


def _differences(answers, expected, precision):
    """How far the answers of each are from our own in float32."""
    rows = []
    for name, answer in answers.items():
        difference = float(np.abs(answer - expected).max())
        if not difference < TOLERANCE[precision]:
            raise RuntimeError(
                f"{name} in {precision} computes something else: a logit differs from "
                f"ours by {difference:.2g}."
            )
        rows.append(
            {"precision": precision, "contender": name, "logit_difference": difference}
        )
    return rows


# What the section `runtimes` compares: programs and what they take after the folder.
OUR_EXPORTS = {
    "SavedModel float32": ("ours_inference.py", "float32"),
    "SavedModel bfloat16": ("ours_inference.py", "bfloat16"),
    "ONNX Runtime float32": ("ours_runtimes.py", "float32.onnx"),
    "ONNX Runtime int8": ("ours_runtimes.py", "int8.onnx"),
    "OpenVINO float32": ("ours_runtimes.py", "float32.xml"),
    "OpenVINO by default": ("ours_runtimes.py", "default.xml"),
    "OpenVINO int8": ("ours_runtimes.py", "int8.xml"),
    "LiteRT float32": ("ours_runtimes.py", "float32.tflite"),
    "LiteRT int8": ("ours_runtimes.py", "int8.tflite"),
}
PEERS_OF_EXPORTS = [
    *(("torch", p) for p in ("float32", "bfloat16", "int8", "int8_compiled")),
    *(("OpenVINO", p) for p in ("float32", "bfloat16")),
    ("ONNX Runtime", "float32"),
]


def runtimes(arena):
    """Every format that we export, in its runtime, beside the peers."""
    arena.write()
    contenders = [*_exported(arena)]
    rows = _file_sizes(arena)
    first = contenders[0].name
    answers = {
        one.name: np.log(one.ask("probabilities", batch=min(4, arena.scale.images)))
        for one in contenders
    }
    for name, answer in answers.items():
        difference = float(np.abs(answer - answers[first]).max())
        if not difference < 2:
            raise RuntimeError(f"{name} computes something else: {difference:.2g}.")
        rows.append({"contender": name, "logit_difference": difference})
    for batch, (rounds, repeats) in arena.scale.rounds.items():
        seconds = infer_in_turns(contenders, batch, rounds, repeats)
        for name, values in seconds.items():
            speed = spread(values, batch)
            rows.append({"contender": name, "batch": batch, "images_per_second": speed})
    for one in contenders:
        one.close()
    return rows + (_accuracy(arena) if arena.cifar10 else [])


def _exported(arena):
    """Export for every runtime; start each contender when it is asked for."""
    keras = arena.ours("ours_keras.py")
    keras.ask("export_files", model=arena.scale.model)
    keras.close()
    for name, (program, taken) in _measured_exports().items():
        yield arena.ours(program, taken, f"ours: {name}")
    for name, precision in PEERS_OF_EXPORTS:
        peer = arena.peer(name, precision) if is_measured(precision) else None
        if peer is not None:
            peer.name = f"{name} {precision}"
            yield peer


def _measured_exports():
    return {name: how for name, how in OUR_EXPORTS.items() if is_measured(how[1])}


def _file_sizes(arena):
    rows = []
    for name, (program, taken) in _measured_exports().items():
        if program == "ours_inference.py":
            written = [*(arena.folder / "saved_model" / taken).rglob("*")]
        else:
            file = arena.folder / "exports" / taken.replace("default", "float32")
            written = [file, file.with_suffix(".bin")][: 1 + (file.suffix == ".xml")]
        size = sum(path.stat().st_size for path in written if path.is_file())
        rows.append({"contender": f"ours: {name}", "bytes": size})
    return rows


def _accuracy(arena):
    """The top-1 accuracy of each on CIFAR-10, by the packaged weights of Nano4."""
    folder = arena.folder / "trained"
    folder.mkdir()
    scale = dataclasses.replace(arena.scale, model="MlpMixerNano4", images=4)
    trained = Arena(folder, arena.peers_python, scale, arena.cifar10, arena.say)
    trained.write("cifar10")
    keras = trained.ours("ours_keras.py")
    labels = keras.ask("write_labelled", dataset=arena.cifar10, model=scale.model)
    keras.close()
    rows = []
    for one in _exported(trained):
        found = np.array(one.ask("best_classes", batch=100))
        one.close()
        top1 = float(np.mean(found == labels))
        rows.append({"contender": one.name, "top1": top1, "images": len(labels)})
    return rows


def files(arena):
    """`serving_default` from JPEG files against `images`, the model alone."""
    arena.write()
    rows, batch = [], arena.scale.images
    for precision in precisions():
        ours = arena.ours("ours_inference.py", precision)
        seconds = {"images": [], "serving_default": []}
        for number in range(arena.scale.file_rounds + 1):
            arguments = {"batch": batch, "repeats": 1, "warm_up": 0}
            alone = ours.ask("infer", **arguments)
            from_files = ours.ask("serve_files", **arguments)
            if number:  # The first ones warm up.
                seconds["images"].append(alone)
                seconds["serving_default"].append(from_files)
        ours.close()
        for signature, values in seconds.items():
            row = {"precision": precision, "batch": batch, "signature": signature}
            rows.append(row | {"images_per_second": spread(values, batch)})
    return rows


def profile(arena):
    """Where the time of an exported model goes, op by op."""
    arena.write()
    rows = []
    for precision in precisions():
        ours = arena.ours("ours_inference.py", precision)
        for batch in list(arena.scale.rounds)[:2]:
            seconds = ours.ask("infer", batch=batch, repeats=10, warm_up=2)
            milliseconds = ours.ask("profile", batch=batch, repeats=5)
            row = {"precision": precision, "batch": batch, "ops": milliseconds}
            rows.append(row | {"wall": statistics.median(seconds) * 1e3})
        ours.close()
    return rows


def training(arena):
    arena.write()
    scale, rows = arena.scale, []
    settings = {"learning_rate": 1e-3, "weight_decay": 0.1, "clip_norm": 1.0}
    batch = scale.training_batch
    for precision in precisions():
        policy = "mixed_bfloat16" if precision == "bfloat16" else precision
        ours = arena.ours("ours_keras.py", policy)
        losses = {
            "ours": ours.ask(
                "start_training", model=scale.model, batch=batch, **settings
            )
        }
        contenders = [ours]
        for peer in (arena.peer(name, precision) for name in TRAINED):
            if peer is not None:
                losses[peer.name] = peer.ask("start_training", batch=batch, **settings)
                contenders.append(peer)
        first = [values[0] for values in losses.values()]
        if max(first) - min(first) > {"float32": 1e-3, "bfloat16": 0.1}[precision]:
            raise RuntimeError(f"The losses of the first step differ: {losses}.")
        seconds = alternate(contenders, scale.training_rounds, "train", repeats=2)
        for one in contenders:
            one.close()
            row = {"precision": precision, "batch": batch, "contender": one.name}
            row |= {"images_per_second": spread(seconds[one.name], batch)}
            rows.append(row | {"losses": losses[one.name]})
    return rows


def agreement(arena):
    ours = arena.ours("ours_keras.py")
    row = ours.ask("agreement", count=arena.scale.crops)
    ours.close()
    return [row]


def input_pipeline(arena):
    seconds = "0.5" if arena.scale is QUICK else "6"
    lines = _output([HERE / "input_pipeline.py", f"--seconds={seconds}"])
    return [json.loads(lines[-1])]


def porting(arena):
    flag = f"--model={arena.scale.ported_model}"
    lines = _output([HERE / "porting.py", flag, "--json"])
    return [json.loads(line) for line in lines]


_IMPORT = """
import time
import keras
start = time.perf_counter()
import keras_mixer
print(time.perf_counter() - start)
"""

_BUILD = """
import sys, time
import keras, keras_mixer
keras.ops.zeros(1) + 1
start = time.perf_counter()
getattr(keras_mixer, sys.argv[1])(weights=sys.argv[2] or None)
print(time.perf_counter() - start)
"""


def _printed(arguments):
    return float(_output(arguments)[-1])


def _whole(arguments):
    started = time.perf_counter()
    _output(arguments)
    return time.perf_counter() - started


def startup(arena):
    """Import beyond Keras; building the model; whole processes, to their end."""
    arena.write()
    cached = arena.folder / "mixer.weights.h5"
    photograph = arena.folder / "startup.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), "uint8")
    PIL.Image.fromarray(pixels).save(photograph)
    nano = ["--model=MlpMixerNano4", "--weights=cifar10"]
    model = arena.scale.model
    programs = {
        "import keras_mixer, beyond keras": (_printed, ["-c", _IMPORT]),
        f"{model}()": (_printed, ["-c", _BUILD, model, ""]),
        f"{model}(weights=cached)": (_printed, ["-c", _BUILD, model, cached]),
        "python -c 'import tensorflow'": (_whole, ["-c", "import tensorflow"]),
        "python -c 'import keras_mixer'": (_whole, ["-c", "import keras_mixer"]),
        "keras-mixer predict startup.jpg (Nano4)": (
            _whole,
            ["-m", "keras_mixer", "predict", photograph, *nano],
        ),
    }
    seconds = {what: [] for what in programs}
    for _ in range(arena.scale.process_rounds):
        for what, (measured, arguments) in programs.items():
            seconds[what].append(measured(arguments))
    return [
        {
            "what": what,
            "median": statistics.median(values),
            "low": min(values),
            "high": max(values),
        }
        for what, values in seconds.items()
    ]


def bulk(arena):
    """From photographs to Parquet; and what a long run costs."""
    scale = arena.scale
    writer = arena.ours("bulk_contender.py")
    writer.ask("write_photographs", count=scale.photographs)
    rows = []
    for model, (kinds, step, rounds) in scale.bulk.items():
        writer.ask("write_model", model=model)
        for precision in filter(is_measured, kinds):
            rows += _bulk_speed(arena, model, precision, step, rounds)
        rows += _bulk_programs(arena, model, step * rounds)
    rows += _bulk_long(arena, writer)
    writer.close()
    return rows


def _bulk_speed(arena, model, precision, step, rounds):
    """Each round labels its own photographs; whoever is asked first changes."""
    ours = arena.ours("bulk_contender.py", precision)
    ours.ask("load", model=model)
    turns = {"the model alone": (ours, "alone"), "ours": (ours, "files")}
    if precision == "float32":
        turns["predict before"] = (ours, "old")
    size = json.loads((arena.folder / model / "sizes.json").read_text())["image_size"]
    peer = None
    if arena.has("torch"):
        log = arena.folder / f"bulk-torch-{model}-{precision}.log"
        program = [HERE / "bulk_torch.py", arena.folder / model, precision]
        peer = contender.Contender("torch", [arena.peers_python, *program], log)
        turns["timm's way, PyTorch"] = (peer, "files")
    seconds = {name: [] for name in turns}
    for number in range(-1, rounds):  # the first one warms up
        names = list(turns)[number % len(turns) :] + list(turns)[: number % len(turns)]
        start = max(number, 0) * step
        for name in names:
            one, method = turns[name]
            extra = {"size": size} if one is peer else {}
            time.sleep(PAUSE_SECONDS)
            stop = start + (step if number >= 0 else 40)
            taken = one.ask(method, start=start, stop=stop, **extra)
            if number >= 0:
                seconds[name].append(taken)
    for one in (ours, peer):
        if one is not None:
            one.close()
    row = {"kind": "speed", "model": model, "precision": precision}
    return [
        {**row, "contender": name, "images_per_second": spread(values, step)}
        for name, values in seconds.items()
    ]


def _bulk_programs(arena, model, count):
    """Whole programs, start-up and all, over the same photographs: ours and Ray's."""
    path = arena.folder / model / "model.keras"
    size = json.loads((path.parent / "sizes.json").read_text())["image_size"]
    folder = arena.folder / f"photographs-{model}"
    folder.mkdir()
    for photograph in sorted((arena.folder / "photographs").iterdir())[:count]:
        (folder / photograph.name).hardlink_to(photograph)
    output = str(arena.folder / f"programs-{model}")
    flags = [f"--model={path}", f"--output={output}.parquet"]
    programs = {"keras-mixer predict": ["-m", "keras_mixer", "predict", folder, *flags]}
    if importlib.util.find_spec("ray"):
        ray = [HERE / "bulk_ray.py", folder, path, size, f"{output}.ray"]
        programs["a Ray Data script"] = ray
    rows = []
    for name, program in programs.items():
        started = time.perf_counter()
        _output([str(part) for part in program])
        seconds = time.perf_counter() - started
        rows.append({"kind": "program", "model": model, "contender": name})
        rows[-1] |= {"photographs": count, "seconds": seconds}
    return rows


def _bulk_long(arena, writer):
    """Memory over few and many images; how long a finished run takes to see it."""
    rows = []
    for count in arena.scale.small_images:
        small = writer.ask("write_small", count=count)
        if not (arena.folder / "MlpMixerNano4").exists():
            writer.ask("write_model", model="MlpMixerNano4")
        ours = arena.ours("bulk_contender.py")
        ours.ask("load", model="MlpMixerNano4")
        peak = ours.ask("peak_bytes", small=small)
        ours.close()
        rows.append({"kind": "memory", "images": count, "peak_bytes": peak})
    count = arena.scale.finished
    flags = {"precision": "float32", "column": None, "batch_size": 32}
    images, out = writer.ask("write_finished", count=count, flags=flags)
    named = ["--model=MlpMixerNano4", "--weights=cifar10", f"--output={out}"]
    seconds = []
    for inputs in ([images], [f"{arena.folder}/no.jpg"]):
        started = time.perf_counter()
        arguments = [sys.executable, "-m", "keras_mixer", "predict", *inputs, *named]
        subprocess.run(arguments, capture_output=True)
        seconds.append(time.perf_counter() - started)
    row = {"kind": "resumed", "images": count, "seconds": seconds[0]}
    return [*rows, {**row, "start_up_seconds": seconds[1]}]


def _output(arguments):
    finished = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if finished.returncode:
        raise RuntimeError(finished.stderr[-2000:])
    return finished.stdout.strip().splitlines()


SECTIONS = {
    "inference": inference,
    "runtimes": runtimes,
    "files": files,
    "profile": profile,
    "training": training,
    "agreement": agreement,
    "input_pipeline": input_pipeline,
    "porting": porting,
    "startup": startup,
    "bulk": bulk,
}
