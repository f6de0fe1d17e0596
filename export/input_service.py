"""Make training batches for another machine: TensorFlow's tf.data service.

    python input_service.py --host=cpu1                      # on the machine cpu1
    keras-mixer train --data_service=grpc://cpu1:5050 ...    # on the one that trains

Needs TensorFlow alone, and the data at the same paths as where it trains. Whoever can
reach the ports can have this process read any file: open them to the trainers only.
"""

import argparse

import tensorflow as tf


def main():
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--host", required=True, help="This machine's name to trainers."
    )
    parser.add_argument("--port", type=int, default=5050, help="It uses the next, too.")
    args = parser.parse_args()
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer(service.DispatcherConfig(port=args.port))
    worker = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=f"localhost:{args.port}",
            worker_address=f"{args.host}:{args.port + 1}",
            port=args.port + 1,
        )
    )
    print(f"--data_service=grpc://{args.host}:{args.port}", flush=True)
    worker.join()
    dispatcher.join()


if __name__ == "__main__":
    main()
