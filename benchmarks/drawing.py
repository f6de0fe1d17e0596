"""The figures of the benchmark as pictures."""

import matplotlib
import report
from matplotlib import pyplot as plt
from matplotlib import ticker


def draw(output_dir):
    """Draw what `results.json` holds, as `results.png` and `growth.png`."""
    matplotlib.use("Agg")
    _draw_speed(output_dir)
    _draw_growth(output_dir)


def _draw_speed(output_dir):
    """Inference and training beside the peers: a row of panels for each processor."""
    drawn = {}
    for cpu, sections in report.read(output_dir).items():
        panels = [
            (f"{kind}, {precision}", rows)
            for kind in ("inference", "training")
            for precision in ("float32", "bfloat16")
            if (rows := _bars(sections, kind, precision))
        ]
        if panels:
            drawn[cpu] = panels
    if not drawn:
        return
    columns = max(map(len, drawn.values()))
    shown = [row for panels in drawn.values() for _, rows in panels for row in rows]
    names = dict.fromkeys(row["contender"] for row in shown)
    colours = {name: f"C{number}" for number, name in enumerate(names)}
    figure = plt.figure(figsize=(4 * columns, 4.2 * len(drawn)), layout="constrained")
    rows = figure.subfigures(len(drawn), 1, squeeze=False)[:, 0]
    for row, (cpu, panels) in zip(rows, drawn.items(), strict=True):
        row.suptitle(cpu)
        axes = row.subplots(1, columns, squeeze=False)[0]
        for unused in axes[len(panels) :]:
            unused.set_axis_off()
        _draw_panels(axes[: len(panels)], panels, colours)
    figure.savefig(output_dir / "results.png", dpi=100)
    plt.close(figure)


def _draw_panels(axes, panels, colours):
    for axis, (title, rows) in zip(axes, panels, strict=True):
        batches = sorted({row["batch"] for row in rows})
        names = list(dict.fromkeys(row["contender"] for row in rows))
        for number, name in enumerate(names):
            speeds = [
                row["images_per_second"] for row in rows if row["contender"] == name
            ]
            middle = [speed["median"] for speed in speeds]
            errors = [
                [speed["median"] - speed["low"] for speed in speeds],
                [speed["high"] - speed["median"] for speed in speeds],
            ]
            width = 0.8 / len(names)
            places = [i + number * width for i in range(len(batches))]
            colour = colours[name]
            axis.bar(places, middle, width, color=colour, yerr=errors, label=name)
        axis.set_title(title)
        axis.set_xticks(
            [i + 0.4 - 0.4 / len(names) for i in range(len(batches))],
            [f"batch {batch}" for batch in batches],
        )
        axis.set_ylabel("images/s")
        axis.legend(
            fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1)
        )


def _bars(sections, kind, precision):
    rows = sections.get(kind, {"rows": []})["rows"]
    rows = [row for row in rows if row["precision"] == precision and "batch" in row]
    return [row for row in rows if row["contender"] != "product limit"]


def _draw_growth(output_dir):
    """Speed and memory as batch, image and model grow: two rows for each processor."""
    measured = {
        cpu: sections["growth"]["rows"]
        for cpu, sections in report.read(output_dir).items()
        if "growth" in sections
    }
    if not measured:
        return
    size = (11, 6.5 * len(measured))
    figure = plt.figure(figsize=size, layout="constrained")
    parts = figure.subfigures(len(measured), 1, squeeze=False)[:, 0]
    for part, (cpu, (limit, *rows)) in zip(parts, measured.items(), strict=True):
        part.suptitle(f"{cpu}, float32")
        axes = part.subplots(2, 3, sharex="col")
        for column, (kind, said) in enumerate(_GROWTH.items()):
            lines = dict.fromkeys(
                row["grows"] for row in rows if row["grows"].startswith(kind)
            )
            for line in lines:
                points = [row for row in rows if row["grows"] == line]
                at = [str(row["at"]).removeprefix("MlpMixer") for row in points]
                if kind != "model":
                    at = [row["at"] for row in points]
                speeds = [row["images_per_second"]["median"] for row in points]
                bounds = [
                    limit["gflop_per_second"] / row["gflop_per_image"] for row in points
                ]
                memory = [row["peak_bytes"] / 1e9 for row in points]
                (drawn,) = axes[0, column].plot(at, speeds, "o-", label=line)
                axes[0, column].plot(
                    at, bounds, "--", color=drawn.get_color(), label="limit of products"
                )
                axes[1, column].plot(at, memory, "o-")
            axes[0, column].set_yscale("log")
            axes[0, column].yaxis.set_major_formatter(ticker.LogFormatter())
            axes[0, column].yaxis.set_minor_formatter(ticker.LogFormatter())
            axes[0, column].set_ylabel("images/s")
            axes[0, column].legend(fontsize="small")
            axes[1, column].set_ylim(bottom=0)
            axes[1, column].set_ylabel("peak memory, GB")
            axes[1, column].set_xlabel(said)
            if kind == "batch":
                axes[1, column].set_xscale("log", base=2)
                axes[1, column].set_xticks(at, map(str, at))
    figure.savefig(output_dir / "growth.png", dpi=100)
    plt.close(figure)


# What grows, and how the axis says it.
_GROWTH = {
    "batch": "batch of B/16",
    "side": "side of the image, pixels; B/16",
    "model": "model",
}
