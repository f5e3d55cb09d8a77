"""ONNX models from a folder, run in worker processes.

Empty on purpose: a worker imports this package for `worker` alone, and needs no event loop for it.
"""
