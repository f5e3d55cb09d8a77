"""ONNX models from a folder, run in worker processes.

Empty on purpose: a worker imports this package for `worker` only, and needs no event loop.
Each module imports only from those above it:

    worker   one model in a worker process
    models   the models of the folder, by name
"""
