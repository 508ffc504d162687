"""Run a function on several ranks, each a process of its own on this machine."""

import io
import multiprocessing
import os
import socket
import traceback

import torch

from vae import ranks


def on_ranks(count, function, *arguments):
    """What `function(*arguments)` returns on each of `count` ranks; it must be importable."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ends = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [
        context.Process(target=_run, args=(number, count, port, ends[number][1], function, arguments), daemon=True)
        for number in range(count)
    ]
    try:
        for process in processes:
            process.start()
        for _, sending in ends:
            sending.close()
        results = [receiving.recv() if receiving.poll(300) else "no answer" for receiving, _ in ends]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    failed = [result for result in results if isinstance(result, str)]
    assert not failed, failed[0]
    return [torch.load(io.BytesIO(result), weights_only=False) for result in results]


def _run(number, count, port, sending, function, arguments):
    where = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in where.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    try:
        with ranks.joined():
            payload = io.BytesIO()
            torch.save(function(*arguments), payload)  # sent as they are, tensors would end with their process
            sending.send(payload.getvalue())
    except Exception:
        sending.send(traceback.format_exc())
