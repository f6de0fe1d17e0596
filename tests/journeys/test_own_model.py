"""A Mixer inside a user's own model, by Keras' own means."""

import keras
import numpy as np
import serving_support

import keras_mixer


def test_a_mixer_in_a_model_of_ones_own(home, snapshots):
    names = sorted(snapshots)
    images = np.stack(
        [np.array(p.resize((32, 32))) for name in names for p in snapshots[name]]
    )
    labels = np.repeat(np.arange(len(names)), len(images) // len(names))
    held_out = np.arange(len(images)) % 6 == 0

    mixer = keras_mixer.MlpMixerNano4(
        weights="cifar10", include_top=False, pooling="avg"
    )
    mixer.trainable = False
    inputs = keras.Input((32, 32, 3), name="pixels")
    x = keras.layers.RandomFlip("horizontal")(inputs)
    x = mixer(x)
    x = keras.layers.Dropout(0.1)(x)
    outputs = keras.layers.Dense(len(names), activation="softmax", name="thing")(x)
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.AdamW(0.003),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        images[~held_out],
        labels[~held_out],
        validation_data=(images[held_out], labels[held_out]),
        epochs=8,
        batch_size=16,
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True),
            keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True),
            keras.callbacks.TensorBoard("logs"),
            keras.callbacks.CSVLogger("log.csv"),
        ],
    )
    expected = model.predict(images[held_out], verbose=0)
    right = expected.argmax(axis=1) == labels[held_out]
    assert right.mean() > 0.9

    again = keras.models.load_model("best.keras")
    assert [v.path for v in again.trainable_variables] == ["thing/kernel", "thing/bias"]
    np.testing.assert_allclose(
        again.predict(images[held_out], verbose=0), expected, atol=1e-6
    )

    version = keras_mixer.export_saved_model(again, "models/things", labels=names)
    signatures = serving_support.signatures_of(version)
    served = serving_support.run_signature(
        signatures["images"], images=images[held_out].astype("float32")
    )
    np.testing.assert_allclose(served["probabilities"], expected, atol=1e-5)
    pictures = [snapshots[name][0] for name in names]
    files = [serving_support.encoded(p.resize((32, 32)), "PNG") for p in pictures]
    answer = serving_support.run_signature(
        signatures["serving_default"], image_bytes=np.array(files, object)
    )
    assert [row[0].decode() for row in answer["top_k_labels"]] == names
