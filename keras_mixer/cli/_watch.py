"""What `predict` tells while it labels, and how Ctrl-C ends it."""

import contextlib
import signal
import sys
import threading

import tqdm

_LISTED = 10  # failures that are named, where a table has them all


class Watch:
    """Counts the answers that pass, and shows how far they are on a terminal.

    Ctrl-C stops it even where Python loses the exception, in the destructor of a lock.

    Args:
        collection: The `Collection` that is labelled; it is counted for the bar.
        is_shown: Whether there is a bar.
        done: How many of its images were labelled before.
    """

    def __init__(self, collection, is_shown, done=0):
        self._interrupted = self._is_undisturbed = False
        self.rows = self.failed = 0
        self.failures = []
        self._bar = tqdm.tqdm(
            initial=done, unit=" images", disable=not is_shown, dynamic_ncols=True
        )
        if is_shown and collection.can_be_counted:
            threading.Thread(
                target=self._count, args=(collection,), daemon=True
            ).start()

    def _count(self, collection):
        self._bar.total = sum(1 for _ in collection)

    def __enter__(self):
        self._before = signal.getsignal(signal.SIGINT)
        # Not where it is ignored, as in the background, or somebody else's.
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *exception):
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)
        self._bar.close()

    def _interrupt(self, *_):
        self._interrupted = True
        if not self._is_undisturbed:
            raise KeyboardInterrupt

    def _check(self):
        if self._interrupted:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def undisturbed(self):
        """Let Ctrl-C wait for the end of a block: a table, and that it is written."""
        self._is_undisturbed = True
        try:
            yield
        finally:
            self._is_undisturbed = False
        self._check()

    def over(self, answers):
        """Let answers pass, one by one."""
        for name, answer in answers:
            self._check()
            self.rows += 1
            if answer.error is not None:
                self.failed += 1
                if len(self.failures) < _LISTED:
                    self.failures.append((name, answer.error))
            yield name, answer
            self._bar.update()

    def add(self, shard):
        """Count a slice that was labelled elsewhere."""
        self._check()
        self.rows += shard.rows
        self.failed += shard.failed
        self.failures += shard.failures[: _LISTED - len(self.failures)]
        self._bar.update(shard.rows)

    def say(self, line):
        """Print a line on standard error, above the bar."""
        self._bar.write(line, file=sys.stderr)
