"""What computes a model's logits on a CPU: torch as it is (eager), or OpenVINO, where the extra ``agescale[cpu]`` is
installed. Uint8 images in, ``Outputs`` out.

OpenVINO compiles the graph of ``graph.Logits``. It computes in float32, whatever the CPU could do faster and worse, on
as many threads as torch has, none of which is bound to a core: scoring runs several processes, which would all choose
the same ones.
"""

from __future__ import annotations

import threading
import warnings
from importlib.util import find_spec

import torch
from torch import Tensor

from agescale.models.age_model import AgeModel, Outputs
from agescale.models.graph import Logits, trace


def is_installed() -> bool:
    return find_spec("openvino") is not None


class OpenVino:
    """A model, compiled. May be used by several threads, one after the other. Raises ValueError, in one line, where it
    cannot be compiled."""

    def __init__(self, model: AgeModel) -> None:
        try:
            import openvino
            from openvino.frontend import FrontEndManager
            from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
            from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose
        except ImportError as error:  # of another release, which has them elsewhere
            raise ValueError(f"OpenVINO as installed is not usable ({error}); pip install 'agescale[cpu]'") from error

        logits, size = Logits(model), model.spec.image_size
        self.columns = logits.columns
        self.lock = threading.Lock()
        program = trace(logits, size)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch's and OpenVINO's own doings
                table = torch.export.default_decompositions()
                for operator in ops_to_not_decompose():
                    table.pop(operator, None)
                decoder = TorchFXPythonDecoder(program.run_decompositions(table).module(), dynamic_shapes=True)
                # not openvino.convert_model, which would tell its makers of each use
                frontend = FrontEndManager().load_by_framework("pytorch")
                compiled = frontend.convert(frontend.load(decoder))
                compiled.reshape([-1, size, size, 3])
                settings = {
                    "INFERENCE_PRECISION_HINT": "f32",
                    "PERFORMANCE_HINT": "LATENCY",
                    "NUM_STREAMS": 1,
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                    "ENABLE_CPU_PINNING": False,
                }
                self.request = openvino.Core().compile_model(compiled, "CPU", settings).create_infer_request()
        except Exception as error:
            reason = " ".join(str(error).split())[-200:]
            raise ValueError(f"OpenVINO cannot compile this network ({type(error).__name__}: {reason})") from error

    def __call__(self, images_NHWC: Tensor) -> Outputs:
        with self.lock:
            said = self.request.infer([images_NHWC.contiguous().numpy()], share_inputs=True)
            task, *auxiliary = [torch.from_numpy(values.copy()) for values in said.to_tuple()]
        return Outputs(task, dict(zip(self.columns, auxiliary, strict=True)))
