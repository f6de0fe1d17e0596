"""Requests that cannot be answered."""

from grpc import StatusCode as Code


class ServingError(Exception):
    """Why a request is refused: a sentence for the client, and gRPC's status."""

    def __init__(self, message, code=Code.INVALID_ARGUMENT):
        super().__init__(message)
        self.code = code
