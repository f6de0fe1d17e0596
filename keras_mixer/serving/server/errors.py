"""Requests that cannot be answered."""

from grpc import StatusCode as Code


class ServingError(Exception):
    """Why a request is refused: a gRPC status, and a sentence for the client."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.message = message


def invalid_argument(message):
    """Return the error of a request that is wrong by itself."""
    return ServingError(Code.INVALID_ARGUMENT, message)
