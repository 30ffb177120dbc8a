"""Eval mode for the length of a prediction, also where several threads predict with one model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_LOCK = threading.Lock()
# For each model in train mode that is predicting: how many threads are, and which modules were in train mode. A model
# has no attribute for it, since a lock can be neither copied nor pickled.
_PREDICTING: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = WeakKeyDictionary()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and each of its modules back into its own mode afterwards.

    Of several threads the first one switches the mode and the last one restores it. If every thread restored the mode
    after its own prediction, those of the others would continue in train mode and change batch statistics.
    """
    with _LOCK:
        threads, trained = _PREDICTING.get(model, (0, []))
        if threads == 0:
            trained = [module for module in model.modules() if module.training]
            if trained:
                model.eval()
        _PREDICTING[model] = (threads + 1, trained)
    try:
        yield
    finally:
        with _LOCK:
            threads, trained = _PREDICTING.pop(model)
            if threads > 1:
                _PREDICTING[model] = (threads - 1, trained)
            else:
                for module in trained:
                    module.training = True
