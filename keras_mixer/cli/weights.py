"""List the published weights, or fetch them ahead of time.

A line has a model, a tag, its classes, top-1 accuracy, licence and publisher.

    keras-mixer weights
    keras-mixer weights --model=MlpMixerB16 --fetch=imagenet
"""

from absl import flags

ARGUMENTS = ""
MODEL = flags.DEFINE_string("model", None, "List or fetch for this model only.")
FETCH = flags.DEFINE_string(
    "fetch", None, "Fetch and cache this tag, for --model or all models with it."
)


def main(argv):
    """Print the catalogue, or fill the cache."""
    if len(argv) > 1:
        raise ValueError(f"weights takes flags only. Received: {' '.join(argv[1:])}.")
    from keras_mixer import catalog

    entries = catalog.list_weights(MODEL.value)
    if FETCH.value:
        from keras_mixer.weights import fetch

        catalog.transform_of(FETCH.value)  # an unknown tag is answered with all of them
        wanted = [entry for entry in entries if entry.tag == FETCH.value]
        if not wanted:
            raise ValueError(
                f"{MODEL.value} has the tags {', '.join(e.tag for e in entries)}. "
                f"Received: --fetch={FETCH.value}."
            )
        for entry in wanted:
            print(fetch(entry))
        return
    print(f"{'model':12} {'tag':17} {'classes':>7} {'top-1':>6}  {'licence':10}  by")
    for e in entries:
        top1 = f"{e.top1:.2f}" if e.top1 else "-"
        print(
            f"{e.model:12} {e.tag:17} {e.classes:7} {top1:>6}  {e.licence:10}  "
            f"{e.provenance}"
        )
