"""One image of a collection: its name, and how to get at its bytes."""

import dataclasses
import os
from typing import Any, Protocol

# Names of images, also of kinds that nothing here reads: whoever labels a folder is
# told of those, and they are not passed over in silence.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".png", ".apng"),
    *(".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".heic", ".heif"),
    *(".avif", ".jxl", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
    *(".ico", ".psd", ".svg", ".dng", ".raw"),
)


class Holder(Protocol):
    """What holds the bytes of images. It can be sent to another process."""

    def read(self, at: Any) -> bytes:
        """Return the bytes at a place; any thread may call it."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One image of a collection. It can be sent to another process.

    Attributes:
        name: Its path or URL; in a shard `shard.tar/member.jpg` or
            `file.parquet#row`. It is valid UTF-8, see `shown`.
        holder: What it is read from.
        at: Where it is in there.
        problem: Why there is nothing to read, or None.
    """

    name: str
    holder: Holder | None = None
    at: Any = None
    problem: str | None = None

    def read(self) -> bytes:
        """Return the content of the image's file.

        Raises:
            ValueError: If it cannot be had, with the reason.
        """
        if self.problem is not None or self.holder is None:
            raise ValueError(self.problem)
        try:
            return self.holder.read(self.at)
        except ValueError:
            raise
        # Every storage has errors of its own: of the disk, of HTTP, of a cloud.
        except Exception as error:
            raise ValueError(
                f"image must be a file that can be read. Received: {in_words(error)}."
            ) from error


def in_words(error: Exception) -> str:
    """Say in a few words what a storage's error says."""
    if isinstance(error, FileNotFoundError):  # some have the path alone
        return "no such file"
    words = getattr(error, "strerror", None) or " ".join(str(error).split())
    return words or type(error).__name__


def shown(path: str) -> str:
    r"""A path as text that every format takes.

    A path need not be UTF-8. Bytes that are not appear as `\xe9`.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
