"""Training batches that other machines make, by TensorFlow's own tf.data service.

The service promises little: a worker that is started anew, or a second one, gives the
stream from its beginning. Each stream holds the number of each step, and is in order;
what has come before is dropped, so that training sees every batch once, in order.
"""

import socket
import threading

import tensorflow as tf

_service = tf.data.experimental.service
_CONNECT_SECONDS = 5
_ANSWER_SECONDS = 30


def find_services(addresses):
    """Split the addresses of tf.data services, and see that each one works.

    Args:
        addresses: `grpc://HOST:PORT` of a dispatcher, several separated by commas.

    Returns:
        A tuple of addresses.

    Raises:
        ValueError: If an address has another form, or there is no such service.
    """
    services = tuple(part.strip() for part in addresses.split(","))
    for service in services:
        protocol, _, address = service.partition("://")
        host, _, port = address.rpartition(":")
        if protocol != "grpc" or not host or not port.isdecimal():
            raise ValueError(
                "data_service must be grpc://HOST:PORT, several separated by commas. "
                f"Received: {addresses!r}."
            )
        if problem := _problem(service, host.strip("[]"), port):
            raise ValueError(
                "A tf.data service must run at each address of data_service. "
                f"Received: {service}, which {problem}. export/input_service.py starts "
                "one; without --data_service this machine makes the batches."
            )
    return services


def _problem(service, host, port):
    """Say what keeps a service from giving a number. TensorFlow would wait for ever."""
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError as error:
        return f"does not answer ({error.strerror or error})"
    numbers = []

    def ask():
        stream = tf.data.Dataset.range(1)
        stream = stream.apply(_service.distribute(_service.ShardingPolicy.OFF, service))
        numbers.extend(stream.as_numpy_iterator())

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ANSWER_SECONDS)
    if numbers:
        return None
    return (
        f"answers, but gives nothing within {_ANSWER_SECONDS} s: it is none, has no "
        "worker, or one whose address cannot be reached from here"
    )


def through_services(make_steps, services, first_step):
    """Let tf.data services make the steps of a stream in turn.

    Args:
        make_steps: Function of `(lane, lanes)` that returns a `tf.data.Dataset` of
            `(step, batch)`, endless and in order, of the steps from `first_step` on
            for which `step % lanes == lane`.
        services: Addresses, as `find_services` returns them.
        first_step: Number of the first step.

    Returns:
        A `tf.data.Dataset` of the batches of all steps, in order.
    """
    lanes = len(services)

    def lane_of(lane):
        steps = make_steps(lane, lanes).apply(
            # Each worker of a service gives all of the stream, from its beginning.
            _service.distribute(_service.ShardingPolicy.OFF, services[lane])
        )
        first = first_step + (lane - first_step) % lanes
        return (
            steps.scan(tf.constant(first, tf.int64), look)
            .filter(lambda new, batch: new)
            .map(lambda new, batch: batch)
        )

    def look(expected, element):
        step, batch = element
        new = step == expected
        return expected + lanes * tf.cast(new, tf.int64), (new, batch)

    order = tf.data.Dataset.range(first_step, tf.int64.max).map(lambda s: s % lanes)
    return tf.data.Dataset.choose_from_datasets(
        [lane_of(lane) for lane in range(lanes)], order
    )


def service_restarted(error):
    """Tell whether a `tf.errors.OpError` says that a service has forgotten this run."""
    return "could be caused by a dispatcher restart" in error.message
