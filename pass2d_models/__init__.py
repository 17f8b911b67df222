"""The networks and the typed batch they take; torch and spconv, no files, no command line."""

import logging

import torch
from spconv import core as _spconv_core

# spconv asks torch a question whose answer torch announces to every user, once a run.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
if not torch.cuda.is_available():
    # spconv describes each of its thousands of GPU kernels when it is imported: 7 s of CPU time
    # that are of no use without a GPU (0.3 s with the lists empty).
    _spconv_core.ALL_IMPGEMM_PARAMS.clear()
    _spconv_core.ALL_NATIVE_PARAMS.clear()
