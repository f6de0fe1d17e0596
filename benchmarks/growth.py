"""The sections about our export alone: its settings, and its cost as work grows."""

import math
import statistics

from arena import Arena, flop_of_image, infer_in_turns, spread

# What TensorFlow is told of oneDNN, and of weights that it may pack once.
_NAMES = ("TF_ENABLE_ONEDNN_OPTS", "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS")
SETTINGS = {"oneDNN off": "00", "oneDNN": "10", "oneDNN, packed weights": "11"}


def settings(arena):
    """Our export, and a Mixer of Keras' own layers, under each setting, in float32."""
    arena.write()
    contenders = []
    for said, values in SETTINGS.items():
        variables = dict(zip(_NAMES, values, strict=True))
        name = f"ours, {said}"
        contenders.append(arena.ours("ours_inference.py", name=name, **variables))
        keras = None
        if "packed" not in said:  # Keras' model has variables that change.
            keras = arena.peer("Keras' own layers", "float32", **variables)
        if keras is not None:
            keras.name = f"Keras' own layers, {said}"
            contenders.append(keras)
    rows = []
    for batch, (rounds, repeats) in arena.scale.rounds.items():
        seconds = infer_in_turns(contenders, batch, rounds, repeats)
        for name, values in seconds.items():
            row = {"batch": batch, "contender": name}
            rows.append(row | {"images_per_second": spread(values, batch)})
    for one in contenders:
        one.close()
    return rows


def growth(arena):
    """Speed and memory over batches, sides of the image, and models; in float32."""
    scale = arena.scale
    keras = arena.ours("ours_keras.py")
    sizes = keras.ask("sizes", models=[scale.model, *scale.models])
    base = sizes[scale.model]
    rows = []
    for batch in scale.batches:
        rows.append({"grows": "batch", "at": batch, "batch": batch, **base})
    for side in scale.sides:
        row = {"batch": scale.growth_batch, "at": side, **base, "image_size": side}
        rows.append({"grows": "side, the same width", **row})
    for times in range(1, max(scale.sides) // base["image_size"] + 1):
        wide = {
            "image_size": times * base["image_size"],
            "tokens_mlp_dim": times**2 * base["tokens_mlp_dim"],
        }
        row = {"batch": scale.growth_batch, "at": wide["image_size"], **base, **wide}
        rows.append({"grows": "side, the paper's rule", **row})
    for model in scale.models:
        row = {"batch": scale.growth_batch, "at": model, **sizes[model]}
        rows.append({"grows": "model", **row})
    batches_of = {}
    for row in rows:
        batches_of.setdefault(_sizes(row, base), set()).add(row["batch"])
    rates, found = [], {}
    # One process for each model: its memory is that of its largest batch so far. What
    # several rows ask for is measured once.
    for number, (given, batches) in enumerate(batches_of.items()):
        folder = arena.folder / f"growth-{number}"
        written = dict(zip(base, given, strict=True))
        images = max(batches)
        keras.ask("write_sized", folder=str(folder), sizes=written, images=images)
        part = Arena(folder, arena.peers_python, scale, None, arena.say)
        ours = part.ours("ours_inference.py")
        for batch in sorted(batches):
            repeats = max(3, min(10, 16 // batch))
            timing = {"repeats": repeats, "warm_up": 2}
            seconds = ours.ask("infer", batch=batch, **timing)
            found[given, batch] = {
                "images_per_second": spread([seconds], batch),
                "gflop_per_image": flop_of_image(written) / 1e9,
                "peak_bytes": ours.ask("peak_bytes"),
            }
        # The largest product of a usual batch, again and again: the machine's limit.
        shape = {"rows": 1568, "inner": 768, "columns": 3072}
        seconds = ours.ask("product", repeats=5, **shape)
        rates.append(2 * math.prod(shape.values()) / statistics.median(seconds))
        ours.close()
    keras.close()
    rows = [row | found[_sizes(row, base), row["batch"]] for row in rows]
    return [{"gflop_per_second": max(rates) / 1e9}, *rows]


def _sizes(row, names):
    return tuple(row[name] for name in names)
