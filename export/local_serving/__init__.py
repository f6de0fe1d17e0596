"""The parts of `local_server.py`."""
